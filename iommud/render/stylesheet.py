# SPDX-License-Identifier: GPL-2.0-or-later
"""The style of the page and of the drawing: system fonts, light and dark, no resource from elsewhere.

Text has a contrast of 4.5 to 1 or better on what lies behind it, in both schemes (WCAG 2.2, 1.4.3).
"""

from __future__ import annotations

HUES = (210, 32, 165, 280, 60, 320, 190, 90, 245, 45, 140, 300)
"""Neighbours far apart on the circle, and none of them the red of a critical finding."""

COLOURS = len(HUES)
"""Hues for groups; further groups begin again at the first."""

_LIGHT = """
--paper:#fff;--panel:#f5f7f9;--ink:#1b1f24;--soft:#57606a;--line:#d5dae0;--link:#0a58c2;
--critical:#b3141d;--critical-bg:#fdecec;--warning:#855200;--warning-bg:#fff3dc;
--info:#0a58a6;--info-bg:#e8f1fb;--good:#186a36;--good-bg:#e7f5eb;--on-mark:#fff;
--depth:44%;--tint:.11
"""
_DARK = """
--paper:#14171b;--panel:#1c2127;--ink:#e7eaee;--soft:#a0a9b4;--line:#343c46;--link:#8bb8ff;
--critical:#ff8f88;--critical-bg:#3a1a1b;--warning:#f2bb5c;--warning-bg:#33270f;
--info:#83bdf7;--info-bg:#152a40;--good:#7bd398;--good-bg:#15301f;--on-mark:#14171b;
--depth:62%;--tint:.17
"""


def _one_line(css: str) -> str:
    return "".join(line.strip() for line in css.splitlines())


_COLOURS = (
    f":root{{color-scheme:light dark;{_one_line(_LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_one_line(_DARK)}}}}}"
    + "".join(f".g{index}{{--g:hsl({hue} 65% var(--depth))}}" for index, hue in enumerate(HUES))
    + ".gx{--g:var(--soft)}"
)

_DRAWING = """
.tree{font:13px/1 system-ui,sans-serif;fill:var(--ink);display:block}
.tree .addr,.tree .root,.tree .num{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
.tree .headline{font-size:17px;font-weight:700}
.tree .addr{font-weight:600}
.tree .root{fill:var(--soft);font-weight:600}
.tree .kind,.tree .name,.tree .num.none{fill:var(--soft)}
.tree .kind{font-style:italic}
.tree .num{font-size:12px;font-weight:600}
.tree .why,.tree .tag{font-size:12px;font-weight:600}
.area{fill:var(--g);fill-opacity:var(--tint)}
.area.lone{fill:var(--soft);fill-opacity:.06}
.bar{fill:var(--g)}
.dot{fill:var(--g)}
.ring{fill:var(--paper);stroke:var(--g);stroke-width:2}
.wire{fill:none;stroke:var(--soft);stroke-opacity:.55;stroke-width:1.25}
.tie path{fill:none;stroke:var(--g);stroke-width:1.75}
.tie .hit{stroke:transparent;stroke-width:9;pointer-events:stroke}
.tie.broken{--g:var(--critical)}
.tie.broken.warning{--g:var(--warning)}
.tie.broken.info{--g:var(--info)}
.tie.broken path+path{stroke-dasharray:4 2.5}
.tie:hover path+path{stroke-width:3.5}
.halo{fill:none;width:calc(100% - 2px);height:calc(100% - 2px);stroke-width:1.5;stroke-dasharray:5 3}
.mark text{font:700 11px/1 system-ui,sans-serif;fill:var(--on-mark)}
.mark.critical path,.critical .why,.critical .tag{fill:var(--critical)}
.mark.warning path,.warning .why,.warning .tag{fill:var(--warning)}
.mark.info path,.info .why,.info .tag{fill:var(--info)}
.critical .halo{stroke:var(--critical)}
.warning .halo{stroke:var(--warning)}
.info .halo{stroke:var(--info)}
.paper{fill:var(--paper)}
a.fn{text-decoration:none;outline:none}
a.fn:hover .addr,a.fn:focus-visible .addr{text-decoration:underline;text-decoration-thickness:2px}
"""

_PAGE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.5rem;background:var(--paper);padding:.3rem .6rem;z-index:1}
header,main,footer{max-width:70rem;margin:0 auto;padding:0 1rem}
header{display:flex;flex-wrap:wrap;gap:.2rem 1rem;align-items:baseline;padding-top:1.1rem}
header p{margin:0;color:var(--soft)}
header nav{margin-left:auto;display:flex;flex-wrap:wrap;gap:0 1rem}
h1{font-size:1.05rem;margin:0}
h2{font-size:1.15rem;margin:2rem 0 .6rem}
h3{font-size:1rem;margin:0}
a{color:var(--link);text-underline-offset:.15em}
a:focus-visible,summary:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:3px}
code,.id{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:.9em}
.verdict{margin:.9rem 0 1rem;padding:.9rem 1.1rem;border-radius:.6rem;border-left:.4rem solid;background:var(--bg)}
.verdict h2{margin:0;font-size:1.5rem;line-height:1.25;display:flex;gap:.6rem;align-items:center}
.verdict p{margin:.3rem 0 0}
.verdict .icon{flex:none;width:28px;height:28px}
.age{color:var(--soft)}
.stale{font-weight:600;color:var(--warning)}
.is-ok{--bg:var(--good-bg);border-color:var(--good)}
.is-findings,.is-error{--bg:var(--critical-bg);border-color:var(--critical)}
.is-warning,.is-undecidable{--bg:var(--warning-bg);border-color:var(--warning)}
.is-no-iommu{--bg:var(--info-bg);border-color:var(--info)}
.tick{fill:none;stroke:var(--good);stroke-width:3;stroke-linecap:round;stroke-linejoin:round}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.6rem;margin:0}
.facts div{background:var(--panel);border-radius:.5rem;padding:.5rem .8rem}
.facts dt{color:var(--soft);font-size:.85rem}
.facts dd{margin:0;font-weight:600}
.facts small{display:block;font-weight:400;color:var(--soft)}
.finding{border:1px solid var(--line);border-left:.3rem solid var(--edge);border-radius:.5rem;padding:.7rem 1rem;
margin:0 0 .8rem}
.finding.critical{--edge:var(--critical)}.finding.warning{--edge:var(--warning)}.finding.info{--edge:var(--info)}
.finding.accepted{--edge:var(--line)}
.finding:target{background:var(--panel)}
.finding h3{display:flex;flex-wrap:wrap;gap:.1rem .5rem;align-items:center}
.finding p{margin:.35rem 0}
.finding ul{margin:.35rem 0;padding-left:1.2rem}
.finding .plain,.plain{list-style:none;padding-left:0}
.cause{border-left:.2rem solid var(--line);padding-left:.8rem;margin:.6rem 0}
.severity{font-weight:600}
.critical .severity{color:var(--critical)}.warning .severity{color:var(--warning)}.info .severity{color:var(--info)}
.soft,.id,cite{color:var(--soft);font-style:normal}
cite::before{content:"("}cite::after{content:")"}
.chip{display:inline-block;min-width:2.1rem;text-align:center;border-radius:.3rem;padding:0 .4rem;
border-left:.3rem solid var(--g);background:color-mix(in srgb,var(--g) 15%,transparent);
font:600 .85rem/1.6 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:nowrap}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:.2rem 0 .8rem;padding:0;list-style:none;color:var(--soft);
font-size:.9rem}
.legend li{display:flex;align-items:center;gap:.35rem}
details{border-top:1px solid var(--line)}
details:last-of-type{border-bottom:1px solid var(--line)}
summary{padding:.45rem .2rem;cursor:pointer}
summary b{font-weight:600}
.drawing{margin:0 0 .6rem;overflow-x:auto}
.drawing:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;width:100%;margin:0 0 .8rem}
caption{text-align:left;padding:.4rem 0;font-weight:600}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem .35rem 0;border-top:1px solid var(--line)}
th{white-space:nowrap}
thead th{color:var(--soft);font-weight:400;font-size:.85rem;border-top:0}
td ul{list-style:none;margin:0;padding:0}
.plain li{margin:.15rem 0}
dl.meanings dt{font-weight:600;margin-top:.6rem}
dl.meanings dd{margin:0}
footer{margin-top:2.5rem;padding-bottom:2rem;color:var(--soft);font-size:.9rem}
@media (max-width:44rem){
.drawing{mask-image:linear-gradient(to right,#000 calc(100% - 2rem),transparent)}
.drawing .tree{min-width:38rem}
header nav{margin-left:0}
table,caption,tbody,tr,td,th{display:block;border:0;padding:.1rem 0}
thead{position:absolute;left:-99rem}
tr{border-top:1px solid var(--line);padding:.4rem 0}
}
@media print{.skip,header nav,footer{display:none}}
"""

SVG_STYLE = _COLOURS + _one_line(_DRAWING)
"""What the drawing needs where it stands alone."""

PAGE_STYLE = SVG_STYLE + _one_line(_PAGE)
"""All of the page's style, for one ``style`` element."""
