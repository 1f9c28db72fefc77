//! `normalize_id(text)`: one form of an identifier, however it was typed.
//!
//! Unicode's NFKC (full-width and other compatible forms as plain ones), upper
//! case, and of that the letters and digits alone, of any script, in NFKC again:
//! what was taken out may have kept two characters from being one. A text
//! without letters and digits is no identifier: NULL. Of what it gives it gives
//! the same. It knows no kind of identifier: no check digit is looked at, and a
//! leading zero counts.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use icu_normalizer::ComposingNormalizerBorrowed;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct NormalizeId {
    signature: Signature,
}

impl NormalizeId {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::string(1, Volatility::Immutable),
        }
    }
}

fn normalized(text: &str) -> Option<String> {
    let id = match text.is_ascii() {
        true => {
            let kept = text.chars().filter(char::is_ascii_alphanumeric);
            kept.map(|c| c.to_ascii_uppercase()).collect()
        }
        false => {
            let nfkc = ComposingNormalizerBorrowed::new_nfkc();
            let plain = nfkc.normalize(text);
            let upper = plain.chars().flat_map(char::to_uppercase);
            let kept: String = upper.filter(|c| c.is_alphanumeric()).collect();
            nfkc.normalize(&kept).into_owned()
        }
    };
    (!id.is_empty()).then_some(id)
}

impl ScalarUDFImpl for NormalizeId {
    fn name(&self) -> &str {
        "normalize_id"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [text] = take_function_args(self.name(), &args.args)?;
        let text = cast(&text.to_array(args.number_rows)?, &DataType::Utf8)?;
        let ids = text.as_string::<i32>().iter();
        let ids = ids.map(|text| normalized(text?));
        Ok(ColumnarValue::Array(Arc::new(ids.collect::<StringArray>())))
    }
}

#[cfg(test)]
mod tests {
    use super::normalized;

    #[test]
    fn one_identifier_is_one_however_it_was_typed() {
        for (text, expected) in [
            ("AB1234", Some("AB1234")),
            (" ab-12 / 34", Some("AB1234")),
            ("ＡＢ１２３４", Some("AB1234")),
            ("de\u{a0}89 3704\t0044", Some("DE8937040044")),
            ("0012", Some("0012")),
            ("straße 5", Some("STRASSE5")),
            // One letter, or a letter and its accent.
            ("\u{e9}1", Some("\u{c9}1")),
            ("e\u{301}1", Some("\u{c9}1")),
            ("ид-7", Some("ИД7")),
            ("①②", Some("12")),
            ("", None),
            (" -/. ", None),
            ("🙂", None),
        ] {
            assert_eq!(normalized(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn of_what_it_gives_it_gives_the_same() {
        // Every character of the scripts in use, between letters that a mark might join.
        for c in '\0'..='\u{1ffff}' {
            if let Some(once) = normalized(&format!("a{c}\u{1100}-\u{1161}")) {
                assert_eq!(normalized(&once).as_ref(), Some(&once), "{c:?}");
            }
        }
    }
}
