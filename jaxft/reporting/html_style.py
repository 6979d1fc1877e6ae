"""The style sheet of the HTML report, for light and dark screens and for paper."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1f2933; --soft: #52606d; --faint: #7b8794;
  --line: #e4e7eb; --accent: #0072b2; --stripe: #f8f9fb; --shadow: 0 1px 2px rgb(31 41 51 / 6%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161b; --card: #1a2027; --ink: #e6eaee; --soft: #aeb8c2; --faint: #84909c;
    --line: #2b343d; --accent: #5db4e8; --stripe: #1e252d; --shadow: none;
  }
  figure img { filter: brightness(0.92); }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%; text-rendering: optimizeLegibility;
}
main { max-width: 60rem; margin: 0 auto; padding: 3.5rem 1.5rem 4rem; }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -0.02em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; letter-spacing: -0.01em; margin: 0 0 0.75rem; }
h3 { font-size: 0.95rem; font-weight: 600; margin: 0 0 0.75rem; }
p { margin: 0 0 0.9rem; max-width: 44rem; }
.subtitle { color: var(--faint); margin: 0.4rem 0 0; }
.summary { margin: 1.6rem 0 0; padding-left: 1.1rem; border-left: 3px solid var(--accent); }
.summary p { font-size: 1.12rem; line-height: 1.6; }
.summary p:last-child { margin-bottom: 0; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 0.9rem; margin: 2rem 0 0;
}
.tile, section > figure, details {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; box-shadow: var(--shadow);
}
.tile { padding: 1rem 1.15rem; display: flex; flex-direction: column; min-width: 0; }
.tile .label { color: var(--soft); font-size: 0.85rem; }
.tile .value {
  font-size: 1.6rem; font-weight: 650; line-height: 1.3; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
.tile .note { color: var(--faint); font-size: 0.85rem; line-height: 1.4; }
section { margin-top: 3rem; }
section > p { color: var(--soft); }
section > figure { margin: 1.1rem 0 0; padding: 1.15rem 1.25rem; break-inside: avoid; }
figure img {
  display: block; max-width: 100%; height: auto; border-radius: 8px; background: white;
}
figcaption { color: var(--faint); font-size: 0.88rem; line-height: 1.5; margin-top: 0.8rem; max-width: 44rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.93rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.5rem 0.8rem; text-align: left; vertical-align: top; }
th:first-child, td:first-child { padding-left: 0.4rem; }
th { color: var(--soft); font-weight: 600; font-size: 0.85rem; border-bottom: 1px solid var(--line); }
td { border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: var(--stripe); }
th, td.number { white-space: nowrap; }
.number { text-align: right; }
details { margin-top: 1.1rem; overflow: hidden; }
summary { padding: 0.7rem 1.25rem; cursor: pointer; color: var(--accent); font-weight: 550; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
pre {
  margin: 0; padding: 1rem 1.25rem; overflow-x: auto; border-top: 1px solid var(--line); background: var(--stripe);
  font: 0.84rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
}
@media (max-width: 40rem) {
  main { padding: 2rem 1rem 3rem; }
  h1 { font-size: 1.6rem; }
  .summary p { font-size: 1.03rem; }
  section > figure { padding: 1rem 0.85rem; }
}
@media print {
  :root { --page: white; --shadow: none; }
  main { max-width: none; padding: 0; }
}
"""
