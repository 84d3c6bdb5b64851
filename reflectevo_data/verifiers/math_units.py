"""Units of math answers: the answer without its unit, and the unit in one spelling."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple


_UNITS = {
    canonical: names.split()
    for canonical, names in {
        "%": "% percent percents percentage",
        "degree": r"^\circ degree degrees deg",
        "dollar": r"\$ $ dollar dollars usd buck bucks",
        "cent": r"cent cents ¢ \cent",
        "euro": "€ euro euros",
        "pound sterling": "£",
        "mm": "mm millimeter millimeters millimetre millimetres",
        "cm": "cm centimeter centimeters centimetre centimetres",
        "dm": "dm decimeter decimeters",
        "m": "m meter meters metre metres",
        "km": "km kilometer kilometers kilometre kilometres",
        "in": "in inch inches",
        "ft": "ft foot feet",
        "yd": "yd yard yards",
        "mi": "mi mile miles",
        "mg": "mg milligram milligrams",
        "g": "g gram grams",
        "kg": "kg kilogram kilograms",
        "lb": "lb lbs pound pounds",
        "oz": "oz ounce ounces",
        "ml": "ml milliliter milliliters",
        "l": "l liter liters litre litres",
        "s": "s sec second seconds",
        "min": "min minute minutes",
        "h": "h hr hrs hour hours",
        "day": "day days",
        "week": "week weeks",
        "month": "month months",
        "year": "year years yr yrs",
        "rad": "rad radian radians",
        "unit": "unit units",
        "mi/h": "mph mi/h",
        "km/h": "km/h kmh kph",
        "m/s": "m/s",
        "ft/s": "ft/s",
    }.items()
}
_UNIT_OF_NAME = {name: canonical for canonical, names in _UNITS.items() for name in names}
_BARE_UNIT = "|".join(
    sorted((re.escape(n) for n in _UNIT_OF_NAME if re.fullmatch(r"[a-z/]{2,}", n)), key=len, reverse=True)
)
_POWER = r"\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?)?"
_TEXT_AT_END = re.compile(rf"(?P<core>.*\S)\s*\\text\s*\{{(?P<unit>[^{{}}]*)\}}{_POWER}", re.DOTALL)
_BARE_AT_END = re.compile(
    rf"(?P<core>.*[\d}})\s])(?<![A-Za-z\\])(?P<unit>(?:(?:square|sq\.?|cubic)\s+)?(?:{_BARE_UNIT})){_POWER}", re.DOTALL
)
# `18 integers`: what is counted, not a sentence
_THINGS_AT_END = re.compile(
    r"(?P<core>\d[\d,.]*)\s+(?P<unit>(?!(?:is|was|plus|minus|times|less|not)\b)(?:[a-z]+\s+)?(?!is\b|less\b)[a-z]{2,}s)(?P<power>)"
)
_MARK_AT_END = re.compile(r"(?P<core>.*\S)\s*(?P<unit>%|\^\\circ|¢|€)\s*[CF]?", re.DOTALL)
_CURRENCY = re.compile(r"(?P<sign>-?)\s*(?P<unit>\\\$|\$|£|€)\s*(?P<core>[\d.\\].*)", re.DOTALL)
_TRIGONOMETRIC = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)\b|\\(?:sin|cos|tan|cot|sec|csc)")


class Quantity(NamedTuple):
    """An answer without its unit, and the unit in one spelling, `""` for none."""

    core: str
    unit: str


@lru_cache(maxsize=4096)
def split_unit(text: str) -> Quantity:
    r"""The answer and its unit.

    >>> from reflectevo_data.verifiers.math_notation import clean
    >>> split_unit(clean(r"864 \mbox{ inches}^2")), split_unit(clean("50\\%")), split_unit("12x")
    (Quantity(core='864', unit='in^2'), Quantity(core='50', unit='%'), Quantity(core='12x', unit=''))
    """
    if match := _CURRENCY.fullmatch(text):
        return Quantity(match["sign"] + match["core"], _UNIT_OF_NAME[match["unit"]])
    match = _MARK_AT_END.fullmatch(text)
    if match and not (match["unit"] == r"^\circ" and _TRIGONOMETRIC.search(match["core"])):
        return Quantity(match["core"], _UNIT_OF_NAME[match["unit"]])
    for pattern in (_TEXT_AT_END, _BARE_AT_END, _THINGS_AT_END):
        if match := pattern.fullmatch(text):
            unit = _canonical_unit(match["unit"], match["power"] or "")
            if unit and not re.fullmatch(r"(?:and|or|if|is|mod)\b.*", unit):
                return Quantity(match["core"].strip(), unit)
    return Quantity(text, "")


def _canonical_unit(name: str, power: str) -> str:
    words = re.sub(r"[.,]", "", name).split()
    words = [word if word == "m" else word.casefold() for word in words]
    if len(words) > 1 and words[0] in ("square", "sq", "cubic"):
        power = "3" if words[0] == "cubic" else "2"
        words = words[1:]
    names = [_UNIT_OF_NAME.get(word, re.sub(r"(?<=\w\w)s\Z", "", word)) for word in words if word not in ("of", "the")]
    names = ["/" if name == "per" else name for name in names]
    joined = " ".join(names).replace(" / ", "/")
    return f"{joined}^{power}" if power and joined else joined
