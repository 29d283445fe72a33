//! The budget of things that are made from one body: fields, members, elements, attributes, items. Each of them costs far more memory
//! than it has bytes (an object with one member takes some 500 bytes, and `[a]` in a form makes one), so the length of a body does
//! not bound what is made of it. Every parser draws from this one budget, before it makes the thing.

/// The most things that are made from one body: at some 500 bytes each, 25 MB.
pub const PARTS_MAX: usize = 50_000;

/// The body has more parts than [`PARTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has more than {PARTS_MAX} parts: fields, members, elements and attributes together")]
pub struct TooManyParts;

/// What is left of the budget of one body.
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
    /// Takes the room of `count` more.
    ///
    /// # Errors
    /// If there is not so much left; nothing is taken then.
    pub fn take(&mut self, count: usize) -> Result<(), TooManyParts> {
        self.left = self.left.checked_sub(count).ok_or(TooManyParts)?;
        Ok(())
    }

    /// How many were made.
    pub fn made(&self) -> usize {
        PARTS_MAX - self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_left_is_not_taken() {
        let mut parts = Parts::default();
        parts.take(PARTS_MAX - 1).unwrap();
        assert_eq!(parts.take(2), Err(TooManyParts));
        assert_eq!(parts.made(), PARTS_MAX - 1, "a refusal takes nothing");
        parts.take(1).unwrap();
        assert_eq!((parts.take(1), parts.made()), (Err(TooManyParts), PARTS_MAX));
    }
}
