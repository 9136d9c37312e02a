"""The page that a report is put into: one style for light and dark, wide and narrow screens; no script."""

from html import escape

STYLE = """
:root{--bg:#f7f6f2;--card:#fff;--ink:#1d1c1a;--soft:#6f6b64;--line:#e5e2da;--rail:#eeece5;
--s0:#0d7a6f;--s1:#c2571b;--s2:#6a4fb3;--s3:#2f6db5;--base:#9a948a;--up:#0d7a6f;--upbg:#d9efeb;--down:#b3261e;
--downbg:#f9dedc;--shadow:0 1px 2px rgba(40,35,20,.05),0 6px 20px rgba(40,35,20,.05)}
@media (prefers-color-scheme:dark){:root{--bg:#131416;--card:#1c1e21;--ink:#ecebe7;--soft:#9c9a94;--line:#2d3034;
--rail:#2a2d31;--s0:#3fc9b5;--s1:#f0935a;--s2:#a992ee;--s3:#74aef0;--base:#7d7a74;--up:#5fdcc9;--upbg:#12392f;
--down:#ff9d94;--downbg:#47201d;--shadow:none}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:clamp(20px,5vw,64px) clamp(16px,4vw,40px)}
h1{font-size:clamp(30px,6vw,52px);line-height:1.08;letter-spacing:-.025em;margin:.1em 0 .35em;font-weight:750;
overflow-wrap:anywhere}
h2{font-size:clamp(22px,3.4vw,30px);letter-spacing:-.015em;margin:0 0 .5em;line-height:1.2}
h3{font-size:17px;margin:0 0 .6em}
h3::first-letter,figcaption::first-letter{text-transform:uppercase}
section{margin-top:clamp(48px,8vw,84px)}
p{max-width:68ch;margin:.4em 0 1.1em}
small{font-weight:400;color:var(--soft)}
.kicker{color:var(--s0);font-weight:650;margin:0;letter-spacing:.02em}
.lead{font-size:clamp(18px,2.4vw,22px);line-height:1.45}
.soft{color:var(--soft);font-size:14px}
ul.soft{padding-left:1.2em;max-width:90ch}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:18px 20px;margin:0;
box-shadow:var(--shadow);min-width:0}
.grid,.bigs,.clips{display:grid;gap:18px;grid-template-columns:repeat(auto-fit,minmax(min(100%,310px),1fr))}
.grid+.grid{margin-top:18px}
.big p{margin:.9em 0 0;line-height:1.6}
.big h3{margin:0;color:var(--soft);font-weight:600}
.huge{font-size:clamp(56px,9vw,84px);font-weight:760;letter-spacing:-.045em;line-height:1.05;color:var(--s0)}
.huge small{font-size:.42em;color:inherit;font-weight:650;margin-left:.08em;letter-spacing:0}
.gain{display:inline-block;padding:0 .55em;border-radius:99px;font-weight:650;white-space:nowrap}
.gain.up{color:var(--up);background:var(--upbg)}.gain.down{color:var(--down);background:var(--downbg)}
.facts{display:flex;flex-wrap:wrap;gap:10px 34px;margin-top:26px;color:var(--soft);font-size:14px}
.facts b{display:block;color:var(--ink);font-size:16px}
.track{position:relative;height:26px;margin:2px 9px;min-width:90px;
background:linear-gradient(var(--rail),var(--rail)) center/100% 4px no-repeat}
.track span{position:absolute;top:50%;transform:translateY(-50%)}
.track .span{height:8px}.track .span.up{background:var(--s0);opacity:.3}
.track .span.down{background:var(--down);opacity:.35}
.track .spread{height:3px}.track .chance{width:2px;height:16px;background:var(--soft);opacity:.65;margin-left:-1px}
.track .knob{width:15px;height:15px;border-radius:50%;transform:translate(-50%,-50%);border:2.5px solid var(--card)}
.knob.s0,.spread.s0,.legend .s0{background:var(--s0)}.knob.s1,.spread.s1,.legend .s1{background:var(--s1)}
.knob.s2,.spread.s2,.legend .s2{background:var(--s2)}.knob.s3,.spread.s3,.legend .s3{background:var(--s3)}
.knob.base,.spread.base,.legend .base{background:var(--base)}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:14px;color:var(--soft);margin:0 0 12px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:7px}
.legend .chanced{width:2px;height:14px;border-radius:0;background:var(--soft);vertical-align:-2px}
.table{margin-bottom:18px;overflow-x:auto}
.table table{width:100%;border-collapse:collapse}
.table td,.table th{padding:5px 0 5px 14px;text-align:left;font-weight:400}
.table tbody th{white-space:nowrap;padding-left:0;font-weight:600}
.table tbody th small{display:block;line-height:1.2}
.table thead th{color:var(--soft);font-size:13px}
.table tbody tr{border-top:1px solid var(--line)}
.table .num{text-align:right;white-space:nowrap}
.wide{width:46%}
.axis{font-size:12px;color:var(--soft)}
.axis span{display:inline-block;width:33.3%}.axis span:nth-child(2){text-align:center}
.axis span:nth-child(3){text-align:right}
figure{margin:0}
figcaption{font-weight:600;margin-bottom:10px;display:flex;justify-content:space-between;gap:10px;flex-wrap:wrap}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}
.grid svg .grid{display:inline}
line.grid{stroke:var(--line);stroke-width:1}
.line{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.line.s0{stroke:var(--s0)}.line.s1{stroke:var(--s1)}.line.s2{stroke:var(--s2)}.line.s3{stroke:var(--s3)}
.dot.s0{fill:var(--s0)}
.chart .legend{margin:8px 0 0}
.confusion{display:grid;gap:2px;align-items:center}
.confusion b{font:400 12px/1 system-ui,sans-serif;color:var(--soft);max-width:8.5em;padding-right:8px;
white-space:nowrap;overflow:hidden;text-overflow:ellipsis;direction:rtl;text-align:right}
.confusion i{aspect-ratio:1;border-radius:2px;background:color-mix(in srgb,var(--down) var(--v),var(--rail))}
.confusion .hit{background:color-mix(in srgb,var(--s0) var(--v),var(--rail))}
.bars{display:grid;gap:5px}
.bar{display:grid;grid-template-columns:minmax(5.5em,38%) 1fr 2.2em;gap:10px;align-items:center;font-size:14px}
.bar .name{text-align:right;line-height:1.15;overflow-wrap:anywhere}.bar .value{text-align:right;color:var(--soft)}
.rail{position:relative;height:14px;background:var(--rail);border-radius:4px}
.rail .fill{position:absolute;inset:0 auto 0 0;background:var(--s0);border-radius:4px}
.rail .mark{position:absolute;top:-3px;bottom:-3px;width:2.5px;background:var(--ink);opacity:.6;border-radius:2px}
.moving{display:grid;grid-template-columns:repeat(3,1fr);gap:8px}
.moving img,.strip{width:100%;height:auto;display:block;image-rendering:pixelated;border-radius:7px}
.moving figcaption{font-size:13px;font-weight:500;color:var(--soft);margin:5px 0 12px}
.strip{border-radius:5px}
@media (prefers-reduced-motion:reduce){.moving{display:none}}
.said{border-collapse:collapse;width:100%;font-size:14px;line-height:1.35;margin-top:10px}
.said th,.said td{text-align:left;font-weight:400;padding:2px 12px 2px 0;vertical-align:top}
.said th{color:var(--soft);white-space:nowrap;width:1%}.said .hit{color:var(--up);font-weight:600}
details{border-top:1px solid var(--line);padding:12px 0}
details:last-child{border-bottom:1px solid var(--line)}
summary{cursor:pointer;font-weight:600}
.pairs{border-collapse:collapse;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;margin-top:8px}
.pairs th,.pairs td{text-align:left;font-weight:400;padding:2px 18px 2px 0;vertical-align:top;overflow-wrap:anywhere}
.pairs th{color:var(--soft)}
@media (max-width:620px){.table table,.table tbody,.table tr{display:block}.table thead{display:none}
.table tbody tr{display:grid;grid-template-columns:1fr auto auto auto;gap:0 12px;padding:9px 0;align-items:baseline}
.table tbody td{padding:0}.table td.wide{grid-column:1/-1;grid-row:2;width:auto}
.table tbody th small{display:inline;margin-left:7px}.table td small{display:none}}
@media print{body{background:#fff}.card{break-inside:avoid;box-shadow:none}}
"""


def page(title: str, body: str) -> str:
    """The whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
