//! `phone_e164(text, country_code)`: a phone number as E.164 writes it,
//! `+<country code><number>`, so that one line is one key however it was typed.
//!
//! Blanks, dots, dashes, slashes and brackets are dropped, `(0)` after a country
//! code too. `+` or `00` begins a number with its country code; any other is of
//! `country_code` ('49'), without its leading zeros. What has another character,
//! or is not 8 to 15 digits then, is no number: NULL. Whether a number was ever
//! given out it does not know.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct PhoneE164 {
    signature: Signature,
}

impl PhoneE164 {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::string(2, Volatility::Immutable),
        }
    }
}

fn normalised(text: &str, country_code: &str) -> Option<String> {
    let country_code = country_code.trim().trim_start_matches('+');
    let text = text.trim().replace("(0)", "");
    let (international, rest) = match text.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => (false, text.as_str()),
    };
    let mut digits = String::with_capacity(rest.len());
    for c in rest.chars() {
        match c {
            '0'..='9' => digits.push(c),
            ' ' | '\u{a0}' | '.' | '-' | '/' | '(' | ')' => {}
            _ => return None,
        }
    }
    let whole = if international {
        digits
    } else if let Some(rest) = digits.strip_prefix("00") {
        rest.to_owned()
    } else {
        format!("{country_code}{}", digits.trim_start_matches('0'))
    };
    let fits = (8..=15).contains(&whole.len())
        && !whole.starts_with('0')
        && whole.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| format!("+{whole}"))
}

impl ScalarUDFImpl for PhoneE164 {
    fn name(&self) -> &str {
        "phone_e164"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [text, country_code] = take_function_args(self.name(), &args.args)?;
        let strings = |value: &ColumnarValue| -> Result<_> {
            Ok(cast(&value.to_array(args.number_rows)?, &DataType::Utf8)?)
        };
        let (text, country_code) = (strings(text)?, strings(country_code)?);
        let both = text.as_string::<i32>().iter();
        let both = both.zip(country_code.as_string::<i32>());
        let numbers = both.map(|(text, code)| normalised(text?, code?));
        Ok(ColumnarValue::Array(Arc::new(
            numbers.collect::<StringArray>(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::normalised;

    #[test]
    fn one_line_is_one_number_however_it_was_typed() {
        for text in [
            "+49 30 1234567",
            "0049 (30) 123-45.67",
            "030/1234567",
            "+49 (0)30 1234567",
            " 030 1234567 ",
        ] {
            assert_eq!(
                normalised(text, "49").as_deref(),
                Some("+49301234567"),
                "{text}"
            );
        }
        for text in [
            "",
            "call me",
            "+49 30 12x",
            "12",
            "+0301234567",
            "+1234567890123456",
        ] {
            assert_eq!(normalised(text, "49"), None, "{text}");
        }
    }
}
