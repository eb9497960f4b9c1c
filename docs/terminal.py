#!/usr/bin/env python3
"""Draws a terminal as SVG: what was typed and what came back.

usage: terminal.py TITLE < transcript > picture.svg

Lines that begin with "$ " or ">>> " are typed; all others were printed.
"""

import html
import sys

ROW, COLUMN, TOP, LEFT = 20, 8.4, 52, 20
lines = sys.stdin.read().rstrip("\n").split("\n")
width = int(2 * LEFT + COLUMN * max(map(len, lines)))
height = TOP + ROW * len(lines) + 10
print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">')
print(f'<rect width="{width}" height="{height}" rx="10" fill="#1b1f24"/>')
for x, colour in ((20, "#ff5f57"), (40, "#febc2e"), (60, "#28c840")):
    print(f'<circle cx="{x}" cy="20" r="6" fill="{colour}"/>')
font = 'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"'
print(f'<text x="{width / 2}" y="25" fill="#8b949e" {font} font-size="13" text-anchor="middle">{html.escape(sys.argv[1])}</text>')
for number, line in enumerate(lines):
    typed = line.startswith(("$ ", ">>> "))
    colour = "#7ee787" if typed else "#8b949e" if "tokens/s" in line else "#e6edf3"
    text = html.escape(line)
    print(f'<text x="{LEFT}" y="{TOP + ROW * number}" fill="{colour}" {font} font-size="14" xml:space="preserve">{text}</text>')
print("</svg>")
