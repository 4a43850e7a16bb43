"""How the page looks, in light and in dark.

Pictures take their colours from here too, see `penstock.report.drawing`. The series' colours keep apart for
colour-blind eyes: they follow Okabe and Ito (https://jfly.uni-koeln.de/color/) and differ in lightness as well.
"""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1a1f26; --muted: #586371; --line: #dde2e8; --faint: #e9ecf0;
  --series-1: #1668b0; --series-2: #d55e00; --series-3: #00886b; --series-4: #a8518f; --series-5: #b08900;
  --always: #475365; --never: #d3d9e0; --warn: #c2410c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1317; --card: #171c22; --ink: #e7ebf0; --muted: #9ca8b5; --line: #2d363f; --faint: #222a32;
    --series-1: #56b4e9; --series-2: #f0883e; --series-3: #2fc39f; --series-4: #d58fc2; --series-5: #e0c04a;
    --always: #aab6c3; --never: #36414c; --warn: #ff9a62;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink); line-height: 1.55; font-size: 16px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
main, header, footer, nav { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 40px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 6px; }
h3 { font-size: 1.05rem; margin: 26px 0 8px; }
p { margin: 0 0 12px; max-width: 78ch; }
.lead { color: var(--muted); }
section { padding: 34px 0 6px; }
nav { padding-top: 18px; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 0; padding: 12px 0;
  border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
a { color: var(--series-1); text-decoration: none; }
a:hover { text-decoration: underline; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .86em; }
pre { background: var(--faint); border-radius: 8px; padding: 12px 14px; overflow-x: auto; margin: 0 0 12px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 20px 0; padding: 0; }
.tiles > div { display: flex; flex-direction: column; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 12px 14px; }
.tiles dt { font-size: .9rem; font-weight: 500; line-height: 1.35; margin-bottom: 2px; }
.tiles dd { margin: 0; }
.tiles .value { order: -1; font-size: 1.65rem; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tiles .note { color: var(--muted); font-size: .8rem; line-height: 1.35; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px;
  margin: 0 0 18px; }
.wide { overflow-x: auto; }
figcaption { color: var(--muted); font-size: .88rem; margin-top: 8px; max-width: 90ch; }
svg.picture { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: 50%; }
caption { text-align: left; color: var(--muted); padding: 4px 0 8px; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--faint);
  white-space: nowrap; }
th:first-child { text-align: left; }
thead th { color: var(--muted); font-weight: 500; border-bottom-color: var(--line); vertical-align: bottom; }
tbody th { font-weight: 500; }
details { margin: 0 0 18px; }
summary { cursor: pointer; color: var(--series-1); margin-bottom: 10px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 470px), 1fr)); gap: 16px; }
.grid .card { margin: 0; min-width: 0; }
.grid h3 { margin: 0 0 4px; overflow-wrap: anywhere; }
.use { border-top: 1px solid var(--faint); padding: 10px 0 4px; }
.use p { margin: 4px 0 6px; font-size: .88rem; }
.bits { display: flex; flex-wrap: wrap; gap: 3px; list-style: none; margin: 0; padding: 0; }
.bits li { min-width: 26px; text-align: center; font-size: .72rem; line-height: 20px; border-radius: 4px;
  border: 1px solid var(--line); color: var(--muted); font-variant-numeric: tabular-nums; }
.bits li.open { background: var(--series-1); border-color: var(--series-1); color: var(--card);
  font-weight: 600; }
.thumbnails { display: flex; flex-wrap: wrap; gap: 8px; padding: 2px; }
.thumbnails img { width: 44px; height: 44px; border-radius: 4px; object-fit: contain; background: var(--faint); }
.thumbnails img.coarse { image-rendering: pixelated; }
.thumbnails img.wrong { outline: 2px dashed var(--warn); outline-offset: 1px; }
footer { color: var(--muted); font-size: .84rem; padding-top: 24px; padding-bottom: 48px; }
@media (max-width: 720px) {
  svg.picture { min-width: var(--least); }
  header { padding-top: 24px; }
  h1 { font-size: 1.5rem; }
}
@media print { body { background: #fff; } nav { display: none; } section { break-inside: avoid; } }
"""
