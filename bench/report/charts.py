"""The report's charts, each defined once: the page, the SVG and the PNG are drawn from it.

A chart names its data and does not hold it, and its choices (`budget`, `task`, `method`) are
parameters that a page sets and a picture fixes.  What is better is said by every axis.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt

from bench.report.tidy import KINDS

# Okabe and Ito's colours, which colour-blind readers tell apart; black becomes grey.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
AMBER, SKY, GREY = "#e69f00", "#56b4e9", "#8c959f"
COLOURS = (BLUE, AMBER, GREEN, GREY, PINK)
ITEMS = (GREY, BLUE, AMBER, GREEN, PINK, SKY, ORANGE, "#b8a900")
SHAPES = ("circle", "square", "triangle-up", "cross", "diamond")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
STEP, WIDE, TALL = 17, 640, 360
WORTH_A_LOG = 5  # times that errors lie apart before their axis is logarithmic

WORST = "datum.label == 'worst' ? 'worst class' : datum.label"
VERDICTS = "datum.label == 'open' ? 'interval holds 0' : datum.label"

Spec = dict[str, Any]
Drawing = alt.Chart | alt.LayerChart | alt.FacetChart


def theme(dark: bool) -> Spec:
    """The charts' look on a light or a dark ground."""
    ink, quiet, faint = (
        ("#e6edf3", "#9aa5b1", "#2c343d") if dark else ("#1f2328", "#57606a", "#e4e7eb")
    )
    ramp = (
        ["#15202b", "#1f4e79", "#4d94c9", "#d7ecff"]
        if dark
        else ["#f3f7fb", "#9ecae1", "#3182bd", "#08306b"]
    )
    axis = {
        "labelColor": ink, "titleColor": quiet, "gridColor": faint, "domainColor": faint,
        "tickColor": faint, "titleFontWeight": "normal", "labelLimit": 330, "labelFontSize": 11,
        "titleFontSize": 11, "labelOverlap": True,
    }  # fmt: skip
    legend = {"labelColor": ink, "titleColor": quiet, "titleFontWeight": "normal", "orient": "top"}
    return {
        "background": None,
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "axisY": {"labelOverlap": False},
        "legend": {**legend, "columns": 5, "labelLimit": 260, "symbolSize": 70},
        "title": {"color": ink, "anchor": "start"},
        "range": {"heatmap": ramp, "ramp": ramp},
        "style": {
            "strong": {"stroke": ink, "color": ink},
            "words": {"fill": ink, "color": ink, "fontSize": 10},
            "zero": {"stroke": quiet, "color": quiet, "strokeDash": [4, 3]},
            "band": {"stroke": ink, "color": ink},
            "quiet": {"stroke": quiet, "color": quiet},
        },
    }


def cost(currency: str, errors: tuple[float, float], kinds: Sequence[str]) -> Drawing:
    """Error against cost, all rows and budgets of a task, with the Pareto front.

    Args:
        currency: `flops` or `seconds`.
        errors: The smallest and the largest error in percent that there is.
        kinds: The kinds of rows that there are.
    """
    what = {"flops": "FLOPs", "seconds": "device-seconds"}[currency]
    base = alt.Chart(_data("costs")).transform_filter(
        f"datum.task == task && datum.{currency} > 0"
    )
    x = alt.X(
        f"{currency}:Q",
        title=f"cost in {what}, in RT (log; left is cheaper)",
        scale=alt.Scale(type="log", nice=False, padding=14),
    ).axis(format=".4~g", tickCount=6)
    # A logarithmic axis has no place for an interval's end at 0.
    base = base.transform_calculate(shown_low="max(datum.error_low, 0.5 * low)")
    y = _error_axis(errors)
    chosen = "datum.method == method"
    now = alt.when("datum.budget == budget")
    dots = base.mark_point(filled=True, size=48).encode(
        x, y, color=_kind(kinds), shape=_shape(kinds),
        opacity=now.then(alt.value(0.95)).otherwise(alt.value(0.28)),
        size=alt.when(chosen).then(alt.value(170)).otherwise(alt.value(44)),
        tooltip=_tips("error", "flops", "seconds"),
    )  # fmt: skip
    bars = base.transform_filter("datum.method == method || datum.budget == budget").mark_rule(
        clip=True
    ).encode(
        x, alt.Y("shown_low:Q"), alt.Y2("error_high:Q"), color=_kind(kinds),
        opacity=alt.when(chosen).then(alt.value(0.9)).otherwise(alt.value(0.25)),
    )  # fmt: skip
    on = base.transform_filter(f"datum.on_{currency}")
    line = on.mark_line(interpolate="step-after", style="strong", strokeWidth=1.2).encode(x, y)
    ranked = on.transform_window(rank="rank()", sort=[alt.SortField(currency)])
    # Below and to the left of the front is no other point; the first has no room to its left.
    side = alt.ExprRef("datum.rank == 1 ? 'left' : 'right'")
    labels = ranked.transform_filter("!narrow").mark_text(
        align=side, baseline="top", dx=-2, dy=6, style="words", limit=170
    )
    return alt.layer(line, bars, dots, labels.encode(x, y, text="method:N")).properties(
        width=WIDE, height=TALL
    )


def anytime(errors: tuple[float, float], kinds: Sequence[str]) -> Drawing:
    """Test error of the weights on the way, at a quarter, half, three quarters and the end."""
    base = alt.Chart(_data("curves")).transform_filter(
        "datum.task == task && datum.budget == budget"
    )
    x = (
        alt.X("spent:Q", title="spent, in RT (left is cheaper)")
        .axis(format=".4~g")
        .scale(zero=True)
    )
    # A logarithmic axis has no place for an interval's end at 0.
    base = base.transform_calculate(shown_low="max(datum.error_low, 0.5 * low)")
    y = _error_axis(errors)
    chosen = "datum.method == method"
    strong = f"{chosen} || datum.method == reference"
    lines = base.mark_line(clip=True).encode(
        x, y, color=_kind(kinds), detail="method:N",
        opacity=alt.when(strong).then(alt.value(1)).otherwise(alt.value(0.3)),
        strokeWidth=alt.when(chosen).then(alt.value(3)).otherwise(alt.value(1.2)),
        strokeDash=alt.when("datum.method == reference").then(alt.value([5, 3])).otherwise(
            alt.value([1, 0])
        ),
    )  # fmt: skip
    dots = base.mark_point(filled=True).encode(
        x, y, color=_kind(kinds), shape=_shape(kinds),
        opacity=alt.when(strong).then(alt.value(1)).otherwise(alt.value(0.3)),
        size=alt.when(strong).then(alt.value(60)).otherwise(alt.value(22)),
        tooltip=_tips("error", "spent"),
    )  # fmt: skip
    bars = base.transform_filter(strong).mark_rule(clip=True).encode(
        x, alt.Y("shown_low:Q"), alt.Y2("error_high:Q"), color=_kind(kinds)
    )  # fmt: skip
    return alt.layer(lines, bars, dots).properties(width=WIDE, height=TALL)


def forest(against: str) -> Drawing:
    """Paired differences with their intervals, against the reference or the own placebos."""
    placebo = against == "placebo"
    base = alt.Chart(_data("comparisons")).transform_filter(
        "datum.budget == budget && datum.against "
        + ("!= 'reference'" if placebo else "== 'reference'")
    )
    if placebo:
        base = base.transform_calculate(label="datum.method + ' less ' + datum.against")
    y = _rows("label:N" if placebo else "method:N")
    title = [f"Δ test error in points, less {'its placebo' if placebo else 'the reference'}"]
    colour = alt.Color("verdict:N", title=None).scale(
        domain=["better", "open", "worse"], range=[BLUE, GREY, ORANGE]
    )
    colour = colour.legend(labelExpr=VERDICTS)
    x = alt.X("delta:Q", title=[*title, "(left is better)"]).axis(
        format="+.4~g", labelExpr="datum.value == 0 ? '0' : datum.label"
    )
    bars = base.mark_rule(strokeWidth=2).encode(
        y, alt.X("delta_low:Q"), alt.X2("delta_high:Q"), color=colour
    )
    shape = (
        alt.Shape("verdict:N", title=None)
        .legend(labelExpr=VERDICTS)
        .scale(
            domain=["better", "open", "worse"], range=["triangle-left", "circle", "triangle-right"]
        )
    )
    tips = [*_tips("delta"), alt.Tooltip("other:N", title="less"), _number("p", ".2g")]
    dots = base.mark_point(filled=True, size=52, opacity=1).encode(
        y, x, color=colour, shape=shape, tooltip=tips
    )
    zero = alt.Chart(alt.InlineData([{}])).mark_rule(style="zero").encode(x=alt.datum(0))
    return alt.layer(_band(base, y), zero, bars, dots).properties(
        width=WIDE, height=alt.Step(STEP)
    )


def levels() -> Drawing:
    """A row's errors: over images, over classes, over the tail, of the worst class."""
    names = {"error": "error", "balanced": "balanced", "tail": "tail", "worst": "worst class"}
    folded = (
        alt.Chart(_data("levels"))
        .transform_filter("datum.budget == budget")
        .transform_fold(list(names), as_=["metric", "value"])
        .transform_calculate(
            low="datum[datum.metric + '_low']", high="datum[datum.metric + '_high']"
        )
    )
    y = _rows("method:N")
    colour = alt.Color("metric:N", title=None).scale(
        domain=list(names), range=[BLUE, GREEN, AMBER, ORANGE]
    )
    colour = colour.legend(labelExpr=WORST, symbolOpacity=1)
    shape = alt.Shape("metric:N", title=None).scale(domain=list(names), range=list(SHAPES[:4]))
    shape = shape.legend(labelExpr=WORST, symbolOpacity=1)
    bars = folded.mark_rule(opacity=0.35).encode(y, alt.X("low:Q"), alt.X2("high:Q"), color=colour)
    tips = [alt.Tooltip("metric:N"), *_tips("value", ends=("low", "high"))]
    dots = folded.mark_point(filled=True, size=46, opacity=1).encode(
        y, alt.X("value:Q", title="test error in % (left is better)"), color=colour, shape=shape,
        tooltip=tips,
    )  # fmt: skip
    band = _band(folded.transform_filter("datum.metric == 'error'"), y)
    return alt.layer(band, bars, dots).properties(width=WIDE, height=alt.Step(STEP))


def classes() -> Drawing:
    """Test error of each class, a row for each method."""
    chart: alt.Chart = (
        alt.Chart(_data("classes"))
        .transform_filter("datum.task == task && datum.budget == budget")
        .mark_rect()
        .encode(
            alt.X("class:N", title="true class", sort=alt.EncodingSortField("label", op="min"))
            .axis(labelAngle=-40, orient="top", labelLimit=90),
            _rows("method:N"),
            color=alt.Color("error:Q", title="test error in % (low is better)").legend(
                gradientLength=180, titleLimit=300),
            tooltip=[alt.Tooltip("method:N"), alt.Tooltip("class:N"), _number("error")],
        )
        .properties(width=WIDE, height=alt.Step(STEP))
    )  # fmt: skip
    return chart


def bill(currency: str) -> Drawing:
    """What runs spent, by item, as stacked bars."""
    what = {"flops": "FLOPs", "seconds": "device-seconds"}[currency]
    base = alt.Chart(_data("bills")).transform_filter("datum.budget == budget")
    y = _rows("method:N")
    colour = alt.Color(
        "item:N",
        title=None,
        sort=alt.EncodingSortField("rank", op="min"),
        scale=alt.Scale(range=list(ITEMS)),
    )
    title = f"spent in {what}, in RT (dashed: the budget)"
    tips = [alt.Tooltip("method:N"), alt.Tooltip("item:N"), _number(currency)]
    bars = base.mark_bar(size=11).encode(
        y, alt.X(f"{currency}:Q", title=title), color=colour, order="rank:Q", tooltip=tips
    )
    limit = alt.Chart(alt.InlineData([{}])).mark_rule(style="zero")
    limit = limit.transform_calculate(limit="budget").encode(x="limit:Q")
    return alt.layer(_band(base, y), bars, limit).properties(width=WIDE, height=alt.Step(STEP))


def confusion() -> Drawing:
    """One method's confusion matrix on a task, seeds added up, each row as shares."""
    place = "datum.at - 1"
    chart: alt.Chart = (
        alt.Chart(_data("confusions"))
        .transform_filter(
            "datum.task == task && datum.budget == budget && datum.method == method"
        )
        .transform_calculate(size="sqrt(length(datum.counts))")
        .transform_flatten(["counts"], as_=["count"])
        .transform_window(at="row_number()")
        .transform_calculate(row=f"floor(({place}) / datum.size)")
        .transform_calculate(column=f"({place}) % datum.size")
        .transform_joinaggregate(total="sum(count)", groupby=["row"])
        .transform_calculate(share="datum.total > 0 ? 100 * datum.count / datum.total : 0")
        .transform_calculate(true="datum.classes[datum.row]")
        .transform_calculate(predicted="datum.classes[datum.column]")
        .mark_rect()
        .encode(
            alt.X("predicted:N", sort=alt.EncodingSortField("column", op="min"))
            .title("predicted class").axis(labelAngle=-40, orient="top", labelLimit=90),
            alt.Y("true:N", sort=alt.EncodingSortField("row", op="min"), title="true class"),
            color=alt.Color("share:Q", title="% of the true class").legend(gradientLength=180),
            tooltip=["true:N", "predicted:N", alt.Tooltip("count:Q", title="test images"),
                     _number("share")],
        )
        .properties(width=420, height=alt.Step(24))
    )  # fmt: skip
    return chart


def _error_axis(errors: tuple[float, float]) -> alt.Y:
    """Logarithmic where errors lie far apart and none is 0; the same for all choices."""
    low, high = errors
    log = low > 0 and high > WORTH_A_LOG * low
    ends = {"domainMin": alt.ExprRef("low"), "domainMax": alt.ExprRef("high")}
    scale = alt.Scale(type="log", nice=False, **ends) if log else alt.Scale(zero=False, padding=8)
    title = f"test error in % ({'log; ' if log else ''}lower is better)"
    return alt.Y("error:Q", title=title, scale=scale).axis(format=".4~g", tickCount=6)


def _data(name: str) -> alt.NamedData:
    return alt.NamedData(name=name)


def _rows(field: str) -> alt.Y:
    """A row a method, in the leaderboard's order, its name in two lines where room is little."""
    lines = "split(replace(datum.label, '[', '\\n['), '\\n')"
    return alt.Y(field, title=None, sort=alt.EncodingSortField("order", op="min")).axis(
        labelExpr=f"narrow ? {lines} : datum.label",
        # Vega sets a label's first line: at the bottom, two lines lie about the middle.
        labelBaseline={
            "condition": {"test": "narrow && indexof(datum.label, '[') > 0", "value": "bottom"},
            "value": "middle",
        },
    )


def _kind(kinds: Sequence[str]) -> alt.Color:
    colour = alt.Color("kind:N", title=None).scale(domain=list(KINDS), range=list(COLOURS))
    return colour.legend(values=list(kinds), symbolOpacity=1)


def _shape(kinds: Sequence[str]) -> alt.Shape:
    shape = alt.Shape("kind:N", title=None).scale(domain=list(KINDS), range=list(SHAPES))
    return shape.legend(values=list(kinds), symbolOpacity=1)


def _band(base: alt.Chart, y: alt.Y) -> alt.Chart:
    """A band behind the chosen method's row."""
    chosen = alt.when("datum.method == method").then(alt.value(0.1)).otherwise(alt.value(0))
    band: alt.Chart = base.mark_rule(style="band", strokeWidth=STEP - 1).encode(
        y, x=alt.value(0), x2=alt.value("width"), opacity=chosen
    )
    return band


def _number(field: str, form: str = ".2f") -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", format=form)


def _tips(value: str, *more: str, ends: tuple[str, str] | None = None) -> list[alt.Tooltip]:
    """Method and budget, the value with its interval, and more numbers."""
    low, high = ends or (f"{value}_low", f"{value}_high")
    fields = [
        alt.Tooltip("method:N"),
        alt.Tooltip("budget:Q", title="budget in RT"),
        _number(value),
        alt.Tooltip(f"{low}:Q", format=".2f", title="95 % from"),
        alt.Tooltip(f"{high}:Q", format=".2f", title="to"),
    ]
    return [*fields, *(_number(field) for field in more)]
