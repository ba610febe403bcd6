//! Characters that hide something: they print nothing, join or turn text unseen, or carry text that nobody sees.
//!
//! Unicode's `Default_Ignorable_Code_Point`, and its controls of direction and interlinear annotation.

/// Whether a character hides something from whoever reads the text.
#[must_use]
pub const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prints_is_not_hidden_and_what_hides_is() {
        assert!("aß漢ñ🚀 -_/.".chars().all(|c| !is_hidden(c)));
        assert!("\u{200b}\u{fe0f}\u{e0101}\u{3164}\u{115f}\u{34f}\u{202e}\u{e0041}".chars().all(is_hidden));
    }
}
