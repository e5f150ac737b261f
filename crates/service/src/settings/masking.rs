//! Masking of secrets in settings that are shown.

use figment::value::{Dict, Value};
use url::Url;

/// What is shown in the place of a secret.
const MASK: &str = "***";

/// Masks values whose keys look like secrets. Secrets belong in files; this is for one that is in the settings by mistake.
pub(super) fn mask(dict: &mut Dict) {
    let secret = ["password", "secret", "token", "key"];
    for (key, value) in dict {
        let is_secret = secret.iter().any(|end| key.ends_with(end));
        match value {
            Value::Dict(_, inner) => mask(inner),
            _ if is_secret => *value = Value::from(MASK),
            _ => mask_within(value),
        }
    }
}

fn mask_within(value: &mut Value) {
    match value {
        Value::Dict(_, inner) => mask(inner),
        Value::Array(_, items) => items.iter_mut().for_each(mask_within),
        Value::String(_, text) => {
            if let Ok(mut url) = Url::parse(text)
                && url.password().is_some()
                && url.set_password(Some(MASK)).is_ok()
            {
                *text = url.into();
            }
        }
        _ => {}
    }
}
