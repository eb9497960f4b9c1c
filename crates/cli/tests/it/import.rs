//! GGUF files: imported by name, or when they are first used.

use std::path::Path;

use crate::common::{Folder, mlxengine, transcript};

/// A model of one layer and nine tokens.
fn seed() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/gguf_model/bytes.gguf");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_file_becomes_a_model_with_a_name() {
    let folder = Folder::new();
    let said = |arguments: &[&str]| {
        let mut command = mlxengine(arguments);
        transcript(command.env("MLXENGINE_MODELS", folder.name()), None).replace(folder.name(), "M")
    };
    let file = seed();
    let want = "llama: 11 tensors, 8.07 kB\nevery weight is exactly what the file says\nwritten to M/org/tiny\n\
        ! hint: mlxengine chat mlx://org/tiny\n[exit 0]\n";
    assert_eq!(said(&["import", &file, "org/tiny"]), want);
    let shown = said(&["show", "mlx://org/tiny"]);
    assert!(shown.contains("model_type llama") && shown.ends_with("[exit 0]\n"), "{shown}");
    let again = said(&["import", &file, "org/tiny"]);
    assert_eq!(again, "! error: M/org/tiny is there already: remove it, or give another name\n[exit 1]\n");
    assert!(said(&["import", &file, "a/b/c"]).contains("not the address of a model"));
    let cargo = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    assert!(said(&["import", cargo]).contains("Cargo.toml is neither a bundle of a model nor a GGUF file"));
    assert!(said(&["import", "no.gguf"]).contains("there is no file no.gguf"));
    let json = said(&["import", &file, "--json"]);
    assert!(json.contains("\"model\": \"mlx://local/bytes\""), "{json}");
}

#[test]
fn a_file_that_is_run_is_imported_once() {
    let folder = Folder::new();
    let ask = || {
        let mut command = mlxengine(&["run", &seed(), "--raw", "ab", "-m", "3"]);
        transcript(command.env("XDG_CACHE_HOME", folder.name()), None).replace(folder.name(), "M")
    };
    let first = ask();
    assert!(first.contains("! imported without loss to M/mlxengine/gguf/bytes-"), "{first}");
    assert!(first.ends_with("[exit 0]\n"), "{first}");
    assert!(!ask().contains("imported"));
}

#[test]
#[cfg(target_os = "linux")]
#[expect(clippy::print_stdout, reason = "a test that is left out says so")]
fn a_full_disk_leaves_nothing_behind() {
    let folder = Folder::new();
    let disk = folder.path("disk");
    std::fs::create_dir_all(&disk).unwrap();
    let mount = |options: &str| {
        let mut command = std::process::Command::new("mount");
        let output = command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&disk).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !mount("size=8k") {
        println!("SKIPPED: a small disk cannot be mounted here");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let import = || transcript(mlxengine(&["import", &seed(), "org/tiny"]).env("MLXENGINE_MODELS", &disk), None);
        let said = import();
        assert!(said.contains("No space left on device") && said.ends_with("[exit 1]\n"), "{said}");
        let left = std::fs::read_dir(disk.join("org")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{said}");
        assert!(mount("remount,size=1m"));
        let said = import();
        assert!(said.ends_with("[exit 0]\n"), "{said}");
    });
    let _ = std::process::Command::new("umount").arg(&disk).status();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
