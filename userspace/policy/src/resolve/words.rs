//! Single words: names and numbers.

use crate::diagnostic::Diagnostic;
use crate::parse::Text;

pub(super) fn bad_name(text: Text<'_>) -> Diagnostic {
    let message = if text.text.is_empty() {
        "this is empty".to_owned()
    } else {
        format!("`{}` is no name", shown(text.text))
    };
    Diagnostic::error("dsp::name", text.span, message)
        .hint("a name is a letter or `_`, then up to 63 letters, digits, `_`, `.` and `-`")
}

pub(super) fn bad_number(text: Text<'_>, parsed: Option<u64>, what: &str, most: u64) -> Diagnostic {
    let range = format!("write a decimal number from 1 to {most}");
    match parsed {
        Some(0) if most == u64::from(u32::MAX) => Diagnostic::error(
            "dsp::zero-id",
            text.span,
            format!("{what} of 0 means unlabelled, and cannot be named"),
        )
        .hint(range),
        Some(number) => Diagnostic::error(
            "dsp::number",
            text.span,
            format!("{number} is out of range for {what}"),
        )
        .hint(range),
        None if text.text.is_empty() => {
            Diagnostic::error("dsp::number", text.span, format!("{what} is missing")).hint(range)
        }
        None => {
            let message = format!("`{}` is no number for {what}", shown(text.text));
            Diagnostic::error("dsp::number", text.span, message)
                .hint(format!("{range}, without sign or leading zeros"))
        }
    }
}

/// A word of the document in a message, cut to a length that fits a line.
pub(super) fn shown(word: &str) -> String {
    if word.chars().count() <= 40 {
        word.to_owned()
    } else {
        word.chars().take(39).chain(['…']).collect()
    }
}

/// A decimal number without sign or leading zeros; one too large is `u64::MAX`.
pub(super) fn decimal(word: &str) -> Option<u64> {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let plain = word == "0" || !word.starts_with('0');
    (digits && plain).then(|| word.parse().unwrap_or(u64::MAX))
}

pub(super) fn is_name(word: &str) -> bool {
    let mut bytes = word.bytes();
    word.len() <= 64
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}
