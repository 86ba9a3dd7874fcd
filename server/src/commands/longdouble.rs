//! The arithmetic of INCRBYFLOAT: Redis adds in x87's 80-bit format and prints 17 decimals, so `0.1 + 0.2` is
//! `0.3`. This is that format, in software: a 64-bit mantissa, rounded to nearest, ties to even.
//!
//! Not here: hexadecimal input, denormals.

use num_bigint::{BigInt, BigUint, Sign};

const MANTISSA_BITS: u64 = 64;
/// Values at or above 2 to this are infinite.
const EXPONENT_MAX: i64 = 16_384;
/// Values below 2 to this are zero.
const EXPONENT_MIN: i64 = -16_445;
/// As Redis's buffer.
const CHARS_MAX: usize = 5 * 1024;

/// `mantissa * 2^exponent`, or infinity.
#[derive(Clone, Debug)]
pub(super) enum LongDouble {
    /// A number.
    Finite {
        /// Below 2^64 in size.
        mantissa: BigInt,
        /// Power of two.
        exponent: i64,
    },
    /// One of both infinities.
    Infinite {
        /// Which.
        negative: bool,
    },
}

impl LongDouble {
    /// Reads what `strtold` reads, but for hexadecimal; NaN, overflow and underflow are refused, as Redis does.
    #[must_use]
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= CHARS_MAX {
            return None;
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Some(LongDouble::Infinite { negative });
        }
        let (number, power) = match rest.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => (&rest[..at], parse_power(&rest[at + 1..])?),
            None => (rest, 0),
        };
        let (whole, fraction) = match number.iter().position(|&b| b == b'.') {
            Some(at) => (&number[..at], &number[at + 1..]),
            None => (number, &number[..0]),
        };
        let digits = [whole, fraction].concat();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digits = BigUint::parse_bytes(&digits, 10)?;
        let sign = if negative { Sign::Minus } else { Sign::Plus };
        if digits == BigUint::ZERO {
            return Some(LongDouble::Finite {
                mantissa: BigInt::ZERO,
                exponent: 0,
            });
        }
        let power = power - fraction.len() as i64;
        // Far beyond the format either way, and not worth the digits.
        if power.abs() > 2 * CHARS_MAX as i64 + 10_000 {
            return None;
        }
        let ten = BigUint::from(10_u32).pow(u32::try_from(power.unsigned_abs()).ok()?);
        let value = if power >= 0 {
            round(sign, digits * ten, 0, false)
        } else {
            // Enough bits that the quotient has more than a mantissa; what remains only breaks ties.
            let shift = (ten.bits() + MANTISSA_BITS + 2).saturating_sub(digits.bits());
            let shifted = digits << shift;
            let quotient = &shifted / &ten;
            let inexact = &quotient * &ten != shifted;
            round(sign, quotient, -(shift as i64), inexact)
        };
        match &value {
            LongDouble::Finite { mantissa, .. } if *mantissa != BigInt::ZERO => Some(value),
            _ => None,
        }
    }

    /// The sum; `None` where it is not a number.
    #[must_use]
    pub(super) fn add(&self, other: &Self) -> Option<Self> {
        Some(match (self, other) {
            (
                LongDouble::Finite {
                    mantissa: a,
                    exponent: ea,
                },
                LongDouble::Finite {
                    mantissa: b,
                    exponent: eb,
                },
            ) => {
                let low = *ea.min(eb);
                let sum = (a << (ea - low) as u64) + (b << (eb - low) as u64);
                let (sign, magnitude) = sum.into_parts();
                if sign == Sign::NoSign {
                    return Some(LongDouble::Finite {
                        mantissa: BigInt::ZERO,
                        exponent: 0,
                    });
                }
                round(sign, magnitude, low, false)
            }
            (LongDouble::Infinite { negative: a }, LongDouble::Infinite { negative: b })
                if a != b =>
            {
                return None;
            }
            (LongDouble::Infinite { negative }, _) | (_, LongDouble::Infinite { negative }) => {
                LongDouble::Infinite {
                    negative: *negative,
                }
            }
        })
    }

    /// 17 decimals, zeros at the end taken off; `None` for an infinity.
    #[must_use]
    pub(super) fn format(&self) -> Option<String> {
        let LongDouble::Finite { mantissa, exponent } = self else {
            return None;
        };
        let scaled = mantissa.magnitude() * BigUint::from(10_u32).pow(17);
        let scaled = if *exponent >= 0 {
            scaled << *exponent as u64
        } else {
            shift_right_even(&scaled, exponent.unsigned_abs(), false)
        };
        let digits = format!("{scaled:0>18}");
        let (whole, fraction) = digits.split_at(digits.len() - 17);
        let fraction = fraction.trim_end_matches('0');
        let mut text = String::with_capacity(digits.len() + 2);
        if mantissa.sign() == Sign::Minus && scaled != BigUint::ZERO {
            text.push('-');
        }
        text.push_str(whole);
        if !fraction.is_empty() {
            text.push('.');
            text.push_str(fraction);
        }
        Some(text)
    }
}

fn parse_power(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    });
    // Clamped: the caller refuses anything near this.
    let value = value.min(1 << 40);
    Some(if negative { -value } else { value })
}

/// `value / 2^bits`, to nearest, ties to even; `inexact` says that a little more was cut off before.
fn shift_right_even(value: &BigUint, bits: u64, inexact: bool) -> BigUint {
    let mut result = value >> bits;
    if bits > 0 && value.bit(bits - 1) {
        let tie = !inexact && value.trailing_zeros() == Some(bits - 1);
        if !tie || result.bit(0) {
            result += 1_u32;
        }
    }
    result
}

fn round(sign: Sign, magnitude: BigUint, exponent: i64, inexact: bool) -> LongDouble {
    let negative = sign == Sign::Minus;
    let (mut magnitude, mut exponent) = (magnitude, exponent);
    if magnitude.bits() > MANTISSA_BITS {
        let cut = magnitude.bits() - MANTISSA_BITS;
        magnitude = shift_right_even(&magnitude, cut, inexact);
        exponent += cut as i64;
    }
    let top = exponent + magnitude.bits() as i64;
    if top > EXPONENT_MAX {
        return LongDouble::Infinite { negative };
    }
    if top < EXPONENT_MIN {
        return LongDouble::Finite {
            mantissa: BigInt::ZERO,
            exponent: 0,
        };
    }
    LongDouble::Finite {
        mantissa: BigInt::from_biguint(sign, magnitude),
        exponent,
    }
}

#[cfg(test)]
mod tests {
    use super::LongDouble;

    fn sum(a: &str, b: &str) -> Option<String> {
        LongDouble::parse(a.as_bytes())?
            .add(&LongDouble::parse(b.as_bytes())?)?
            .format()
    }

    #[test]
    fn sums_are_those_of_an_80_bit_float() {
        for (a, b, c) in [
            ("0.1", "0.2", "0.3"),
            ("3.0", "1.1", "4.1"),
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("1", "-1", "0"),
            ("-0", "0", "0"),
            ("1e-20", "0", "0"),
            ("-1e-20", "0", "0"),
            ("1234567890123456789", "0.5", "1234567890123456789.5"),
            ("17179869184.1", "0", "17179869184.09999999962747097"),
            (".5", "1.", "1.5"),
        ] {
            assert_eq!(sum(a, b).as_deref(), Some(c), "{a} + {b}");
        }
    }

    #[test]
    fn what_redis_refuses_is_refused() {
        for text in [
            "", "nan", " 1", "1 ", "1e", "e5", ".", "1.2.3", "--1", "1e5000", "1e-5000", "abc",
        ] {
            assert!(LongDouble::parse(text.as_bytes()).is_none(), "{text}");
        }
        assert!(sum("inf", "1").is_none());
        assert!(sum("inf", "-inf").is_none());
        assert!(sum("1e4932", "1e4932").is_none());
    }
}
