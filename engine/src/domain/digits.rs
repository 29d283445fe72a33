//! Writes numbers and bytes as short lower-case text without look-alikes: Crockford's base 32 (no `i`, `l`, `o`, `u`).

/// The digits in the order of their values. Sorted as text, they have the same order.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Appends one digit for the length of the number, then the digits of the number. So numbers with fewer digits sort before
/// numbers with more digits.
pub fn push_ordered(text: &mut String, number: u64) {
    let digits = (64 - number.leading_zeros()).div_ceil(5).max(1);
    text.push(char::from(ALPHABET[digits as usize]));
    for place in (0..digits).rev() {
        text.push(char::from(ALPHABET[(number >> (5 * place) & 31) as usize]));
    }
}

/// Reads the output of [`push_ordered`], and nothing else: every number has exactly one text.
pub fn parse_ordered(text: &str) -> Option<u64> {
    let (length, digits) = text.as_bytes().split_first()?;
    if value(*length)? != digits.len() as u64 {
        return None;
    }
    let mut number: u64 = 0;
    for digit in digits {
        number = number.checked_mul(32)?.checked_add(value(*digit)?)?;
    }
    let mut canonical = String::with_capacity(text.len());
    push_ordered(&mut canonical, number);
    (canonical == text).then_some(number)
}

fn value(digit: u8) -> Option<u64> {
    ALPHABET.iter().position(|known| *known == digit).map(|place| place as u64)
}
