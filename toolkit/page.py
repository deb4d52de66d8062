"""Parts of an HTML page: style, template, sections, tables. Every string from outside is escaped here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from string import Template
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --paper: #fff; --soft: #f3f5f7; --line: #d5dae0; --mark: #0b5c96; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #15181b; --soft: #20252a; --line: #3b434b; --mark: #79bdee; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem 1.1rem 4rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .4rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { font-size: 1.1rem; margin: 2rem 0 .4rem; } h4 { font-size: .95rem; margin: 0 0 .3rem; }
nav { font-size: .9rem; margin: 1rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; } a { color: var(--mark); }
blockquote { margin: .8rem 0; padding: .2rem 1rem; border-left: 4px solid var(--mark); }
blockquote footer, .note { font-size: .9rem; opacity: .85; }
.verdict { background: var(--soft); border-radius: .5rem; padding: .7rem 1rem; margin: .8rem 0; }
.tag { display: inline-block; padding: 0 .5rem; border: 1.5px solid currentColor; border-radius: 1rem; font-weight: 600;
  font-size: .85rem; white-space: nowrap; }
.supported { color: #00734f; } .refuted { color: #b34700; } .inconclusive { color: #4d5a66; }
@media (prefers-color-scheme: dark) {
  .supported { color: #3ecf9b; } .refuted { color: #ff9a57; } .inconclusive { color: #b6c0c9; }
}
.scroll { overflow-x: auto; margin: .6rem 0; }
.narrow { display: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .8rem; padding: .6rem 1px; }
.card { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; font-size: .85rem; }
.card dl { margin: 0; } .card dl > div { display: flex; justify-content: space-between; gap: .8rem; }
.card dt { font-weight: 400; margin: 0; white-space: nowrap; }
.card dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n { white-space: nowrap; }
figure { margin: 1.2rem 0; } .picture { overflow-x: auto; }
figure img { width: var(--width, 46rem); max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
@media (max-width: 40rem) {
  figure img { width: calc(.8 * var(--width, 46rem)); max-width: none; } .narrow { display: block; }
  #design td { white-space: normal; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
}
figcaption { font-size: .95rem; margin-top: .3rem; }
.verdict p, .verdict ul { margin: .3rem 0; } .verdict ul { padding-left: 1.2rem; font-size: .92rem; }
.caution { border-left: 4px solid #b37400; padding: .1rem 1rem; margin: 1rem 0; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--mark); }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; font-size: .82rem; border-radius: .3rem; }
dt { font-weight: 600; margin-top: .7rem; } dd { margin: 0 0 0 1rem; }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #f3f5f7; --line: #bbb; }
  body { max-width: none; font-size: 10.5pt; padding: 0; } .scroll, .picture { overflow: visible; }
  table { font-size: 8.5pt; } td.n { white-space: normal; } th, td { padding-right: .45rem; }
  figure, tr, .verdict, .card { break-inside: avoid; } figure img { max-height: 22cm; object-fit: contain; }
  figure img { width: calc(.8 * var(--width, 46rem)); } figure details { display: none; }
  details::details-content { content-visibility: visible; block-size: auto; }
  #run-configurations details:last-child { display: none; }
  h2, h3, summary { break-after: avoid; } pre { white-space: pre-wrap; } nav, .narrow { display: none; }
}
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


def section(heading: str, body: str, *, level: int = 2) -> str:
    """A heading and HTML below it; `contents` links to those of level 2."""
    mark = f' id="{re.sub("[^a-z]+", "-", heading.lower())}"' if level == 2 else ""
    return f"<section{mark}><h{level}>{escape(heading)}</h{level}>\n{body}</section>"


def contents(parts: Sequence[str]) -> str:
    """Links to the sections of level 2 among `parts`."""
    found = [re.match(r'<section id="([^"]*)"><h2>([^<]*)</h2>', part) for part in parts]
    links = [f'<a href="#{mark[1]}">{mark[2]}</a>' for mark in found if mark]
    return f"<nav>{' '.join(links)}</nav>" if links else ""


def details(summary: str, body: str) -> str:
    """HTML that is folded away under a summary."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def card(title: str, items: Mapping[str, Any]) -> str:
    """A box with a title and what is told of it, an item a line."""
    lines = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(text(v))}</dd></div>" for k, v in items.items())
    return f'<div class="card"><h4>{escape(title)}</h4><dl>{lines}</dl></div>'


def definitions(items: Mapping[str, Any]) -> str:
    """Terms and what they mean."""
    return "<dl>" + "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(text(v))}</dd>" for k, v in items.items()) + "</dl>"


def note(text: str) -> str:
    """A paragraph in small type."""
    return f'<p class="note">{escape(text)}</p>'


def tag(outcome: str) -> str:
    """A verdict's outcome as a coloured label."""
    return f'<span class="tag {escape(outcome, quote=True)}">{escape(outcome)}</span>'


def table(rows: Sequence[Sequence[str]], *, tags: Sequence[int] = ()) -> str:
    """The first row is the heading; columns in `tags` hold outcomes."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{"n" if len(c) < 34 else ""}">{tag(c) if i in tags else escape(c)}</td>'
            for i, c in enumerate(row)
        )
        + "</tr>\n"
        for row in rows[1:]
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def wide(items: Sequence[Mapping[str, Any]]) -> str:
    """Dicts as a table, one row each, with every key that occurs."""
    keys = list(dict.fromkeys(k for item in items for k in item))
    return table([keys, *([text(item.get(k, "")) for k in keys] for item in items)])


def flat(item: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested dicts with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in item.items():
        name = f"{before}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def text(value: Any) -> str:
    """A value for reading: numbers with four digits, lists with commas."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list | tuple) and not any(isinstance(v, Mapping | list | tuple) for v in value):
        return ", ".join(text(v) for v in value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def round_cell(text: str) -> str:
    """Numbers of a CSV with four digits, for reading; the file keeps them all."""
    try:
        number = float(text)
    except ValueError:
        return text
    if not isfinite(number):
        return "n/a"
    return text if number.is_integer() and abs(number) < 1e15 and "e" not in text else f"{number:.4g}"
