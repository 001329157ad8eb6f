"""F-strings that `ast.unparse` writes differently in different versions of Python"""

row = {"name": "x", 'it"s': 1}
width, name = 8, "n"
texts = [
    f"{row['name']}",
    f"{row['name']!r:>{width}}",
    f"{name!s:>10} and {{braces}}",
    f"a\n{name}\t'quoted' \"both\"",
    f"""{name + "x"}""",
    f"{'nested ' + f'{name}'}",
    f"{name=}",
    f"é{name}ü\N{BULLET}",
    f"{[f'{n:02d}' for n in range(3)]}",
    rf"\d{name}\n",
    f"u{name}v",
]
