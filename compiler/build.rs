//! Collects the runtime's sources, which compiled crates carry with them.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| io::Error::other("run by cargo alone"))?);
    let runtime = here.join("../runtime");
    let mut files = Vec::new();
    for part in ["src", "assets"] {
        collect(&runtime, Path::new(part), &mut files)?;
        println!("cargo::rerun-if-changed={}", runtime.join(part).display());
    }
    files.sort();
    let workspace = here.join("../Cargo.toml");
    let mut table = format!("static WORKSPACE: &str = include_str!({workspace:?});\n");
    let manifest = runtime.join("Cargo.toml");
    let _ = writeln!(table, "static MANIFEST: &str = include_str!({manifest:?});");
    let _ = writeln!(table, "static FILES: &[(&str, &[u8])] = &[");
    for file in files {
        let (name, path) = (file.to_string_lossy().replace('\\', "/"), runtime.join(&file));
        let _ = writeln!(table, "    ({name:?}, include_bytes!({path:?})),");
    }
    table += "];\n";
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("run by cargo alone"))?);
    fs::write(out.join("runtime.rs"), table)
}

/// Every file under `root/part`, relative to `root`.
fn collect(root: &Path, part: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(part))? {
        let entry = entry?;
        let path = part.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
