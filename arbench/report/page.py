"""The frame of a page that stands alone: one file with its style in it, nothing to fetch."""

from __future__ import annotations

import html

STYLE = """
:root { color-scheme: light dark;
  --ink: #1a1a1a; --paper: #ffffff; --quiet: #5f6368; --line: #d9dce0; --best: #0a5c99; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181b; --quiet: #9aa0a6; --line: #3a3f44; --best: #7cc0f5; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 100rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.lead, figcaption, ul.footnotes { color: var(--quiet); font-size: .875rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: left; vertical-align: top; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); white-space: normal; vertical-align: bottom; cursor: pointer; }
thead th[aria-sort=ascending]::after { content: " ▴"; } thead th[aria-sort=descending]::after { content: " ▾"; }
td.number, th.number { text-align: right; }
td small { color: var(--quiet); font-size: .75rem; font-weight: normal; }
td.text { white-space: normal; min-width: 11rem; } strong { color: var(--best); }
figure { margin: 1rem 0; } figure.curve { display: inline-block; width: 32rem; max-width: 100%; }
figure img { max-width: 100%; height: auto; } figure.curve img { background: #ffffff; border-radius: .4rem; }
div.films { display: flex; flex-wrap: wrap; gap: 1.2rem; }
div.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1.2rem; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; padding: 0 .75rem; font-size: 15px; } table { font-size: .8rem; }
  th, td { padding: .3rem .4rem; } td.text { min-width: 14rem; }
  td:first-child, th:first-child { position: sticky; left: 0; background: var(--paper); }
}
@page { size: landscape; margin: 12mm; }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --quiet: #444; --line: #999; --best: #000; }
  body { max-width: none; margin: 0; font-size: 10pt; }
  div.wide { overflow: visible; }
  table { font-size: 7pt; } th, td { padding: .2rem .35rem; white-space: normal; overflow-wrap: break-word; }
  td.number { white-space: nowrap; } td.text { min-width: 0; }
  div.grids { grid-template-columns: repeat(3, 1fr); } figure img { max-height: 150mm; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
}
"""


# A click, Enter or the space bar on a head sorts by its column: numbers by value, what has none last; once more turns
# it round.
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.querySelectorAll("thead th")], body = table.tBodies[0];
  const key = (row, i) => row.cells[i].dataset.value ?? null;
  heads.forEach((head, i) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
      const numeric = [...body.rows].some((row) => key(row, i) !== null);
      const compare = (a, b) => {
        if (!numeric) return sign * a.cells[i].textContent.localeCompare(b.cells[i].textContent);
        const [x, y] = [key(a, i), key(b, i)];
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (Number(x) - Number(y));
      };
      body.append(...[...body.rows].sort(compare));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();  // the space bar would scroll
      sort();
    });
  });
}
"""


def page(title: str, body: str) -> str:
    """A whole HTML document around `body`."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{html.escape(title)}</title>",
            f"<style>{STYLE}</style></head><body>",
            body.rstrip("\n"),
            f"<script>{SCRIPT}</script>",
            "</body></html>\n",
        ]
    )
