//! Where what can be made again is kept.

use std::path::PathBuf;

/// `mest` in the user's cache folder: `$XDG_CACHE_HOME`, or `.cache` at home.
pub(crate) fn folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    caches.unwrap_or_else(std::env::temp_dir).join("mest")
}
