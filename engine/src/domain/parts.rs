//! A budget that limits how many values (fields, members, elements, attributes, items) are created from one body. Each value
//! needs far more memory than its text: an object with one member takes about 500 bytes, and in a form the three characters `[a]`
//! create such an object. So the size of a body does not limit the memory of its parsed form. Every parser takes from this budget
//! before it creates a value.

/// Maximum number of values created from one body. At about 500 bytes each, they take 25 MB.
pub const PARTS_MAX: usize = 50_000;

/// The body has more parts than [`PARTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has more than {PARTS_MAX} parts: fields, members, elements and attributes together")]
pub struct TooManyParts;

/// The remaining budget of one body.
#[derive(Debug)]
pub struct Parts {
    left: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Self { left: PARTS_MAX }
    }
}

impl Parts {
    /// Takes `count` from the budget.
    ///
    /// # Errors
    /// If less than `count` is left. Then nothing is taken.
    pub fn take(&mut self, count: usize) -> Result<(), TooManyParts> {
        self.left = self.left.checked_sub(count).ok_or(TooManyParts)?;
        Ok(())
    }

    /// Returns the number of values created.
    pub fn made(&self) -> usize {
        PARTS_MAX - self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_more_than_the_remaining_budget() {
        let mut parts = Parts::default();
        parts.take(PARTS_MAX - 1).unwrap();
        assert_eq!(parts.take(2), Err(TooManyParts));
        assert_eq!(parts.made(), PARTS_MAX - 1, "a refusal takes nothing");
        parts.take(1).unwrap();
        assert_eq!((parts.take(1), parts.made()), (Err(TooManyParts), PARTS_MAX));
    }
}
