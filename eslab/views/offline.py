"""Altair charts that show without a network: in JupyterLab by the renderer that it ships, elsewhere as a picture."""
# ruff: noqa: PLC0415  Altair takes a second to import: it is loaded when a chart is drawn, not with eslab

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any, Final

__all__ = ["bundle", "offline", "use_offline_charts"]

MIME: Final = (
    "application/vnd.vegalite.v5+json"  # Altair 6 writes version 6, but what we draw is in 5 too, and that is what JupyterLab 4 ships
)
VERSION: Final = "5.8"  # of Vega-Lite, for the picture: of those that vl-convert has, the next to JupyterLab's 5.6


def bundle(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    """What a notebook is given to show a chart: its spec, an SVG and a line of text. Nothing in it is fetched from anywhere."""
    import vl_convert

    shown = {name: value for name, value in spec.items() if name != "$schema"}  # an address; the MIME type says the version
    shown["usermeta"] = {
        **shown.get("usermeta", {}),
        "embedOptions": {"actions": {"export": True, "source": True, "compiled": False, "editor": False}},
    }
    out: dict[str, Any] = {MIME: shown}
    with contextlib.suppress(ValueError):  # a user's chart of what only Vega-Lite 6 knows, or of data at an address
        out["image/svg+xml"] = vl_convert.vegalite_to_svg(_visible(shown), vl_version=VERSION, allowed_base_urls=[])
    return {**out, "text/plain": f"<chart: {_told(spec)}>"}


def _visible(spec: Any) -> Any:
    """The spec without layers that are there for the pointer alone: no pointer reaches into a picture, and they would be most of it."""
    if isinstance(spec, list):
        return [_visible(one) for one in spec]
    if not isinstance(spec, dict):
        return spec
    out = {name: value if name in ("data", "datasets") else _visible(value) for name, value in spec.items()}
    if isinstance(out.get("layer"), list):
        out["layer"] = [one for one in out["layer"] if not (isinstance(one.get("mark"), dict) and one["mark"].get("opacity") == 0)]
    return out


def _told(spec: dict[str, Any]) -> str:
    """What a chart is of, in its own words."""
    title = spec.get("title")
    for text in (spec.get("description"), title.get("text") if isinstance(title, dict) else title):
        if isinstance(text, (str, list)) and text:
            return " ".join(text) if isinstance(text, list) else text
    return "made with Altair"


def use_offline_charts() -> None:
    """Let every Altair chart in this notebook show without a network, as eslab's own do."""
    import altair as alt

    alt.renderers.register("eslab", bundle)
    alt.renderers.enable("eslab")


def offline(chart: Any) -> Any:
    """The same Altair chart, bringing its own bundle; so does what is made of it, by `.properties`, `|`, `&`, `+` and the like."""
    kind = _kinds().get(type(chart))
    if kind is not None:
        chart = chart.copy(deep=False)
        object.__setattr__(chart, "__class__", kind)  # Altair takes a plain assignment for a property of the chart
    return chart


class _Offline:
    """Mixed into a chart of Altair: it shows by `bundle`, and what is made of it does too."""

    def _repr_mimebundle_(self: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return bundle(self.to_dict(context={"pre_transform": False}))

    def __repr__(self: Any) -> str:
        return f"<chart: {_told({name: self._get(name) for name in ('title', 'description')})}>"

    def __add__(self, other: Any) -> Any:
        return offline(super().__add__(other))  # type: ignore[misc]

    def __or__(self, other: Any) -> Any:
        return offline(super().__or__(other))  # type: ignore[misc]

    def __and__(self, other: Any) -> Any:
        return offline(super().__and__(other))  # type: ignore[misc]

    def __radd__(self: Any, other: Any) -> Any:
        import altair as alt

        return offline(alt.layer(other, self))

    def __ror__(self: Any, other: Any) -> Any:
        import altair as alt

        return offline(alt.hconcat(other, self))

    def __rand__(self: Any, other: Any) -> Any:
        import altair as alt

        return offline(alt.vconcat(other, self))

    def facet(self, *args: Any, **kwargs: Any) -> Any:
        return offline(super().facet(*args, **kwargs))  # type: ignore[misc]

    def repeat(self, *args: Any, **kwargs: Any) -> Any:
        return offline(super().repeat(*args, **kwargs))  # type: ignore[misc]


@cache
def _kinds() -> dict[type, type]:
    """For each kind of chart, the one that shows offline."""
    import altair as alt

    kinds = (alt.Chart, alt.LayerChart, alt.HConcatChart, alt.VConcatChart, alt.ConcatChart, alt.FacetChart, alt.RepeatChart)
    return {kind: type(kind.__name__, (_Offline, kind), {"__module__": __name__}) for kind in kinds}
