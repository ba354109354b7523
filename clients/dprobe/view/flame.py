"""Maps with stacks as keys as a flame graph: an SVG, or a page with one, that needs nothing else.

A frame is as wide as all that was counted in it and in what it called; below it is who called it.
Both zoom to the frame that is clicked at, and find names; a reader without scripts sees the graph
as it is, and what is in a frame when pointing at it. What is narrower than a reader could see is
not drawn, and the title says how much that is.

All names come from the processes that were probed, so all are escaped, and neither loads anything.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

#: Pixels: of the whole, of a frame's height, of a letter, and of what is above the frames.
_WIDTH: Final = 1200.0
_ROW: Final = 18
_LETTER: Final = 7.0
_HEAD: Final = 46
#: The narrowest that is drawn, in pixels.
_LEAST: Final = 0.05

_STYLE: Final = (
    "text{font:12px monospace;fill:#000;pointer-events:none}"
    ".title{font-size:15px}.frame rect{stroke:#fff;stroke-width:.5;cursor:pointer}"
    ".frame:hover rect{stroke:#000}.found rect{fill:#c060f0}.below rect{opacity:.5}"
    ".button{cursor:pointer;pointer-events:all;fill:#00c}"
)

#: Zooms (a click at a frame, or at "all"), and marks frames with a text in their name.
_SCRIPT: Final = """
(function () {
  var svg = document.getElementById("flames"), width = +svg.dataset.width, letter = 7;
  var frames = Array.prototype.slice.call(svg.getElementsByClassName("frame"));
  var all = svg.querySelector("#all"), note = svg.querySelector("#note");
  function at(frame) { return [+frame.dataset.x, +frame.dataset.w, +frame.dataset.d]; }
  function zoom(frame) {
    var to = at(frame);
    frames.forEach(function (each) {
      var here = at(each), end = here[0] + here[1], slack = 1e-6;
      var below = here[2] < to[2] && here[0] <= to[0] + slack && end + slack >= to[0] + to[1];
      var within = here[2] >= to[2] && here[0] + slack >= to[0] && end <= to[0] + to[1] + slack;
      each.style.display = below || within ? "" : "none";
      if (!below && !within) return;
      var x = below ? 0 : (here[0] - to[0]) / to[1] * width;
      var w = below ? width : here[1] / to[1] * width;
      each.classList.toggle("below", below);
      var box = each.querySelector("rect"), text = each.querySelector("text");
      box.setAttribute("x", x); box.setAttribute("width", w);
      text.setAttribute("x", x + 3);
      text.textContent = fitted(each.dataset.name, w);
    });
    all.style.display = to[2] ? "" : "none";
  }
  function fitted(name, w) {
    var room = Math.floor((w - 6) / letter);
    return room < 3 ? "" : name.length <= room ? name : name.slice(0, room - 2) + "..";
  }
  function find(text) {
    var count = 0;
    frames.forEach(function (each) {
      var found = text !== "" && each.dataset.name.indexOf(text) >= 0;
      each.classList.toggle("found", found);
      count += found;
    });
    note.textContent = text === "" ? "" : count + " frames with " + text;
  }
  frames.forEach(function (each) { each.addEventListener("click", function () { zoom(each); }); });
  all.addEventListener("click", function () { zoom(frames[0]); });
  svg.querySelector("#find").addEventListener("click", function () {
    var text = prompt("Frames with this text in their name:", "");
    if (text !== null) find(text);
  });
})();
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>body{{margin:8px;font:14px sans-serif}}svg{{width:100%;height:auto}}</style>
</head>
<body>
{graph}
</body>
</html>
"""


class _Frame:
    """A function in the place where its callers are those below it."""

    __slots__ = ("called", "name", "value")

    def __init__(self, name: str) -> None:
        self.name = name
        self.value = 0
        self.called: dict[str, _Frame] = {}


def svg(title: str, unit: str, stacks: Iterable[tuple[list[str], int]]) -> str:
    """The graph of these stacks, each with its outermost frame first and what was counted in it.

    ``unit``: what that is, in words.
    """
    root = _Frame("all")
    for names, value in stacks:
        frame = root
        frame.value += value
        for name in names:
            frame = frame.called.setdefault(name, _Frame(name))
            frame.value += value
    drawn = list(_placed(root))
    depth = 1 + max(at for _, _, at in drawn)
    height = _HEAD + depth * _ROW + 4
    left_out = _count(root) - len(drawn)
    if left_out:
        title += f" ({left_out} narrow frames not drawn)"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" id="flames" data-width="{_WIDTH:g}" '
        f'width="{_WIDTH:g}" height="{height}" viewBox="0 0 {_WIDTH:g} {height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH:g}" height="{height}" fill="#f8f8f0"/>',
        f'<text class="title" x="8" y="20">{_text(title)}</text>',
        '<text id="find" class="button" x="8" y="38">find</text>',
        '<text id="all" class="button" x="60" y="38" style="display:none">all</text>',
        '<text id="note" x="110" y="38"></text>',
    ]
    parts += [_box(frame, x, at, height, unit, root.value) for frame, x, at in drawn]
    parts += [f"<script><![CDATA[{_SCRIPT}]]></script>", "</svg>", ""]
    return "\n".join(parts)


def html(title: str, unit: str, stacks: Iterable[tuple[list[str], int]]) -> str:
    """A page with the graph."""
    # In HTML a script has no sections: it ends with its element.
    graph = svg(title, unit, stacks).replace("<![CDATA[", "").replace("]]></script>", "</script>")
    return _PAGE.format(title=_text(title), graph=graph)


def _count(frame: _Frame) -> int:
    waiting, count = [frame], 0
    while waiting:
        count += 1
        waiting.extend(waiting.pop().called.values())
    return count


def _placed(root: _Frame) -> Iterator[tuple[_Frame, float, int]]:
    """The frames that are drawn, from where on, and how many are below."""
    scale = _WIDTH / root.value
    waiting = [(root, 0.0, 0)]
    while waiting:
        frame, x, depth = waiting.pop()
        yield frame, x, depth
        for each in sorted(frame.called.values(), key=lambda each: each.name):
            width = each.value * scale
            if width >= _LEAST:
                waiting.append((each, x, depth + 1))
            x += width


def _box(frame: _Frame, x: float, depth: int, height: int, unit: str, whole: int) -> str:
    width = frame.value / whole * _WIDTH
    y = height - 4 - (depth + 1) * _ROW
    name = _text(frame.name)
    room = int((width - 6) / _LETTER)
    shown = frame.name if len(frame.name) <= room else f"{frame.name[: room - 2]}.."
    share = frame.value / whole
    return (
        f'<g class="frame" data-x="{x:.4f}" data-w="{width:.4f}" data-d="{depth}" '
        f'data-name="{name}"><title>{name}: {frame.value:,} {_text(unit)}, {share:.2%}</title>'
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_ROW - 1}" rx="2" '
        f'fill="{_colour(frame.name)}"/>'
        f'<text x="{x + 3:.2f}" y="{y + 13}">{_text(shown) if room >= 3 else ""}</text></g>'
    )


def _colour(name: str) -> str:
    """A warm one, the same for a name wherever it is."""
    drawn = zlib.crc32(name.encode())
    return f"hsl({drawn % 45 + 8},{75 + (drawn >> 8) % 20}%,{60 + (drawn >> 16) % 14}%)"


def _text(text: str) -> str:
    """As text, or an attribute, of XML; what XML cannot have was made visible before."""
    return escape(text, quote=True)
