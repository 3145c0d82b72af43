//! Looks for the C library intel-ipsec-mb, and builds the glue to it where header and static library are there.
//!
//! Without it, for another processor than x86-64, without the feature `link` or with `ADIT_IPSEC_MB=off` the crate is built
//! all the same, and says nothing here: the programs say what they hold. `cfg(ipsec_mb)` is set where it was found.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ipsec_mb)");
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "link")]
    ipsec_mb::find();
}

#[cfg(feature = "link")]
mod ipsec_mb {
    use std::env;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const GLUE: &str = "src/glue.c";
    const LIBRARY: &str = "libIPSec_MB.a";
    /// Changes with every package that is installed: a library that comes later is looked for again.
    const PACKAGES: &str = "/var/lib/dpkg/status";

    pub fn find() {
        println!("cargo::rerun-if-changed={GLUE}");
        println!("cargo::rerun-if-env-changed=ADIT_IPSEC_MB");
        let wanted = env::var("ADIT_IPSEC_MB").as_deref() != Ok("off");
        let x86_64 = env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64");
        if !wanted || !x86_64 {
            return;
        }
        match library().filter(|_| glue_builds()) {
            Some(library) => {
                println!("cargo::rerun-if-changed={}", library.display());
                println!("cargo::rustc-link-search=native={}", library.parent().unwrap_or(Path::new("/")).display());
                println!("cargo::rustc-link-lib=static:-bundle=IPSec_MB");
                println!("cargo::rustc-cfg=ipsec_mb");
            }
            None if Path::new(PACKAGES).exists() => println!("cargo::rerun-if-changed={PACKAGES}"),
            None => {}
        }
    }

    /// Where the compiler would find the static library.
    fn library() -> Option<PathBuf> {
        let compiler = cc::Build::new().cargo_metadata(false).try_get_compiler().ok()?;
        let answer = Command::new(compiler.path()).arg(format!("-print-file-name={LIBRARY}")).output().ok()?;
        // A library that it does not find it answers with the bare name.
        let path = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
        path.is_absolute().then(|| path.canonicalize().ok()).flatten()
    }

    /// A header that is missing, too old or of another shape is an error of the compiler, which nobody needs to see.
    fn glue_builds() -> bool {
        let mut build = cc::Build::new();
        build.file(GLUE).opt_level(2).cargo_warnings(false);
        build.try_compile("adit_ipsec_mb_glue").is_ok()
    }
}
