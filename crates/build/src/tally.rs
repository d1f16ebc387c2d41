//! How much a stage may come to: a variable may stand for much more than its name.

/// The most bytes of the variables, of the configuration and of what a copy names and holds.
const MAX_BYTES: usize = 1 << 20;

/// The most variables.
const MAX_VARIABLES: usize = 4096;

/// What was counted so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    bytes: usize,
    variables: usize,
}

// === impl Tally ===

impl Tally {
    /// Counts a text.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), String> {
        self.bytes += text.len();
        if self.bytes > MAX_BYTES {
            return Err(format!(
                "with it, variables and other texts come to more than {MAX_BYTES} bytes"
            ));
        }
        Ok(())
    }

    /// Counts texts.
    pub(crate) fn texts<'a>(
        &mut self,
        texts: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), String> {
        texts.into_iter().try_for_each(|text| self.text(text))
    }

    /// Counts a variable.
    pub(crate) fn variable(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        self.variables += 1;
        if self.variables > MAX_VARIABLES {
            return Err(format!("with it, there are more than {MAX_VARIABLES} variables"));
        }
        self.text(name)?;
        self.text(value.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_counts() {
        let half = "x".repeat(MAX_BYTES / 2);
        let mut tally = Tally::default();
        tally.variable("", Some(&half)).expect("half of it");
        tally.texts([&half]).expect("all of it");
        assert!(tally.text("x").is_err());
        let mut tally = Tally::default();
        assert!((0..MAX_VARIABLES).all(|_| tally.variable("A", None).is_ok()));
        assert!(tally.variable("A", None).is_err());
    }
}
