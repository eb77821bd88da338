//! Signed documents: minisign's format, by any of several keys.

use std::path::PathBuf;

use minisign_verify::{PublicKey, Signature};

/// Public keys of the signers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// Files of public keys, read at each use so that they can be rotated while the agent runs.
    files: Vec<PathBuf>,
}

impl Keys {
    /// `None` when documents need no signature.
    pub(super) fn new(files: Vec<PathBuf>) -> Option<Self> {
        (!files.is_empty()).then_some(Self { files })
    }

    /// Reads all files once, to find out that they answer; what is wrong with them is for
    /// [`Keys::verify`] to say.
    pub(super) fn read(&self) {
        for file in &self.files {
            let _ = PublicKey::from_file(file);
        }
    }

    /// Returns the time when the document was signed, in seconds since 1970, as the signer's trusted comment
    /// says.
    ///
    /// # Errors
    /// Returns the reason why the signature is not valid.
    pub(super) fn verify(&self, document: &[u8], signature: &[u8]) -> Result<i64, String> {
        let text = std::str::from_utf8(signature).map_err(|_| NO_SIGNATURE.to_owned())?;
        let signature = Signature::decode(text).map_err(|_| NO_SIGNATURE.to_owned())?;
        let mut problems = vec![];
        for file in &self.files {
            match PublicKey::from_file(file) {
                // Signatures of the older form, over the whole document, are as good.
                Ok(key) => match key.verify(document, &signature, true) {
                    Ok(()) => return signed_at(signature.trusted_comment()),
                    Err(error) => problems.push(format!("{}: {error}", file.display())),
                },
                Err(error) => problems.push(format!(
                    "{}: expected a minisign public key: {error}",
                    file.display()
                )),
            }
        }
        Err(format!(
            "the document is not signed by any of the keys ({})",
            problems.join("; ")
        ))
    }
}

const NO_SIGNATURE: &str = "the signature is none of minisign's";

/// minisign writes `timestamp:SECONDS` into the trusted comment unless it is given another one.
fn signed_at(trusted_comment: &str) -> Result<i64, String> {
    let mut words = trusted_comment.split_whitespace();
    let time = words.find_map(|word| word.strip_prefix("timestamp:")?.parse().ok());
    time.ok_or_else(|| {
        format!(
            "the signature does not tell when it was made: its trusted comment is {trusted_comment:?}, \
             expected timestamp:SECONDS in it, as minisign writes it without -t"
        )
    })
}
