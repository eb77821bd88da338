//! Credentials for registries as `docker login` writes them, in a `config.json` or a `.dockercfg`, which Secrets hold
//! too (Kubernetes, Images, "Configuring nodes to authenticate to a private registry").
//!
//! Pure. No message and no `Debug` form shows any of the credentials.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// The layout of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `config.json`: the entries stand in `auths`.
    Config,
    /// `.dockercfg`: the entries stand at the top.
    Cfg,
}

/// Credentials of one entry.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identity_token: String,
    pub(crate) registry_token: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// Reads a text as a JSON object.
///
/// # Errors
/// It is none. What the parser says of it names a place, and none of its words.
pub(crate) fn read_object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("is no JSON object".to_owned()),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}

/// Takes the entries, by registry; `None` where there is no list of them.
///
/// # Errors
/// The list is none.
pub(crate) fn take_entries(
    mut fields: Map<String, Value>,
    layout: Layout,
) -> Result<Option<Map<String, Value>>, String> {
    if layout == Layout::Cfg {
        return Ok(Some(fields));
    }
    let list = fields.keys().find(|key| key.eq_ignore_ascii_case("auths"));
    let list = list.cloned().and_then(|key| fields.remove(&key));
    match list {
        Some(Value::Object(entries)) => Ok(Some(entries)),
        None | Some(Value::Null) => Ok(None),
        Some(_) => Err("auths: expected an object with an entry for each registry".to_owned()),
    }
}

/// Reads an entry; an empty one where its credentials are kept elsewhere.
///
/// # Errors
/// A field is invalid.
pub(crate) fn read_login(entry: &Value) -> Result<Login, String> {
    let Value::Object(fields) = entry else {
        return Err("expected an object".to_owned());
    };
    let text = |field: &str| match field_of(fields, field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{field}: expected a text")),
    };
    // This token stands for a user, whose name and password beside it are placeholders. The other one does not:
    // containerd does not use it.
    let tokens = Login {
        identity_token: text("identitytoken")?,
        registry_token: text("registrytoken")?,
        ..Login::default()
    };
    if !tokens.identity_token.is_empty() {
        return Ok(tokens);
    }
    let (username, password) = match text("auth")?.as_str() {
        "" => (text("username")?, text("password")?),
        auth => user_and_password(auth).ok_or("auth: expected USER:PASSWORD in base64")?,
    };
    Ok(Login {
        username,
        password,
        ..tokens
    })
}

/// A field by its name, in whatever case, as Go reads JSON.
fn field_of<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let in_other_case = || {
        fields
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let exact = fields.get(name);
    exact.or_else(|| in_other_case().map(|(_, value)| value))
}

fn user_and_password(auth: &str) -> Option<(String, String)> {
    // Programs that write base64 break its lines, and the padding at the end may be left out.
    let auth = auth.replace(['\r', '\n'], "");
    let padding = "=".repeat(auth.len().wrapping_neg() % 4);
    let bytes = STANDARD.decode(auth + &padding).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}
