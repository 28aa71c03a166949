"""Money is Decimal US dollars. A cost is computed exactly and rounded once, here, to 12 decimal places, half to even. Sums are
never rounded."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

PLACES = 12
_QUANTUM = Decimal(1).scaleb(-PLACES)
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)

ZERO = Decimal(0)


def round_usd(amount: Decimal) -> Decimal:
    """The only rounding: to 12 decimal places, half to even."""
    return amount.quantize(_QUANTUM, context=_CONTEXT)


def format_decimal(amount: Decimal) -> str:
    """Plain notation without exponent or trailing zeros: `0.0015`, `20`, never `2E+1`, `0.00` or `-0`."""
    if not amount.is_finite():
        raise ValueError("not a finite decimal")
    if amount == 0:
        return "0"
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
