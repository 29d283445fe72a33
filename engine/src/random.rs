//! The only place that asks the system for random bytes. They are for secrets, keys, names, tags and nonces.
//!
//! The rules in `domain` take random bytes as an argument, and the time too, so that tests can choose both.

/// The system provides no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system provides no random bytes: {0}")]
pub struct NoRandomness(getrandom::Error);

/// Returns random bytes that cannot be guessed.
///
/// # Errors
/// The system has no source of randomness, for example in a container.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// Fills a buffer with random bytes, for a key that must have no copy elsewhere in memory.
///
/// # Errors
/// See [`bytes`].
pub fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    getrandom::fill(bytes).map_err(NoRandomness)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_are_the_same() {
        let [one, two] = [bytes::<32>().unwrap(), bytes::<32>().unwrap()];
        assert!(one != two && one != [0; 32]);
    }
}
