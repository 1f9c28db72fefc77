//! `keyed_hash(text)`: HMAC-SHA-256 of a text under the project's salt, as 64
//! hexadecimal digits: an identifier that can be a key and cannot be guessed
//! back by who lacks the salt.
//!
//! The salt is given to the engine by the binary, which has it from the
//! environment; it is in no definition and in no plan that is shown. Without one
//! a call fails.

use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::exec_err;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use sha2::{Digest, Sha256};

/// What keyed hashes are made with.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::engine) struct Salt(pub(in crate::engine) Arc<[u8]>);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt")
    }
}

#[derive(Debug)]
pub(super) struct KeyedHash {
    signature: Signature,
    salt: Option<Salt>,
}

impl PartialEq for KeyedHash {
    fn eq(&self, other: &Self) -> bool {
        self.salt == other.salt
    }
}

impl Eq for KeyedHash {}

impl Hash for KeyedHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.signature.hash(state);
    }
}

impl KeyedHash {
    pub(super) fn new(salt: Option<Salt>) -> Self {
        Self {
            signature: Signature::string(1, Volatility::Immutable),
            salt,
        }
    }
}

/// RFC 2104 with SHA-256, whose blocks have 64 bytes.
fn hmac(key: &[u8], text: &[u8]) -> String {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text);
    let outer = Sha256::new().chain_update(padded(0x5c));
    let digest = outer.chain_update(inner.finalize()).finalize();
    digest
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

impl ScalarUDFImpl for KeyedHash {
    fn name(&self) -> &str {
        "keyed_hash"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(Salt(salt)) = &self.salt else {
            return exec_err!("keyed_hash needs a salt: set GRANARY_SALT in the environment");
        };
        let [text] = take_function_args(self.name(), &args.args)?;
        let text = cast(&text.to_array(args.number_rows)?, &DataType::Utf8)?;
        let texts = text.as_string::<i32>().iter();
        let hashes = texts.map(|text| Some(hmac(salt, text?.as_bytes())));
        Ok(ColumnarValue::Array(Arc::new(
            hashes.collect::<StringArray>(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::hmac;

    #[test]
    fn hashes_are_those_of_rfc_4231() {
        let text = b"what do ya want for nothing?";
        assert_eq!(
            hmac(b"Jefe", text),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(
            hmac(&[0xaa; 131], text),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
