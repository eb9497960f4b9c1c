//! Several models in one process.
#![cfg(feature = "demo")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mlxengine::hub::HubConfig;
use mlxengine::{ErrorKind, GenerateParams, LlmEngine, LoadOptions, ManagerLimits, ModelManager, ModelPaths, Prompt};

/// A folder with the demo model under several names, removed at the end.
struct Models(PathBuf);

impl Models {
    fn new(names: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("mlxengine-manager-{}-{number}", std::process::id()));
        for name in names {
            let folder = root.join(name);
            fs::create_dir_all(&folder).unwrap();
            for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("demo")).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), folder.join(file.file_name())).unwrap();
            }
        }
        Models(root)
    }

    fn manager(&self, memory: Option<u64>, limits: ManagerLimits) -> ModelManager {
        let paths = ModelPaths { directories: vec![self.0.clone()], ..ModelPaths::default() };
        ModelManager::new(LoadOptions { paths, memory, ..LoadOptions::default() }, limits)
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn most(models: usize) -> ManagerLimits {
    ManagerLimits { models: Some(models), bytes: None }
}

fn names(manager: &ModelManager) -> Vec<String> {
    manager.loaded().into_iter().map(|held| held.name).collect()
}

fn capital() -> (Prompt, GenerateParams) {
    (Prompt::chat("What is the capital of France?"), GenerateParams::default().with_temperature(0.0))
}

#[test]
fn threads_that_ask_for_one_model_get_one_load() {
    let models = Models::new(&["a/x"]);
    let manager = models.manager(None, ManagerLimits::default());
    let barrier = Barrier::new(8);
    let engines: Vec<_> = thread::scope(|scope| {
        let ask = || {
            barrier.wait();
            manager.load("a/x").unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let first = engines[0].model().unwrap();
    assert!(engines.iter().all(|engine| std::sync::Arc::ptr_eq(&first, &engine.model().unwrap())));
    assert_eq!(names(&manager), ["a/x"]);
    // Other names of the same model.
    let address = manager.load("mlx://a/x").unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &address.model().unwrap()));
    let (prompt, params) = capital();
    assert!(address.generate(prompt, &params).unwrap().text.contains("Paris"));
}

#[test]
fn the_model_that_was_used_longest_ago_makes_room() {
    let models = Models::new(&["a/x", "a/y", "a/z"]);
    let manager = models.manager(None, most(2));
    let x = manager.load("a/x").unwrap();
    let y = manager.load("a/y").unwrap();
    manager.load("a/x").unwrap();
    manager.load("a/z").unwrap();
    assert_eq!(names(&manager), ["a/z", "a/x"]);
    assert!(x.is_loaded() && !y.is_loaded());
    assert!(manager.unload("a/x").unwrap() && !manager.unload("a/x").unwrap());
    assert!(!x.is_loaded());
    assert_eq!(names(&manager), ["a/z"]);
}

#[test]
fn a_model_in_use_stays() {
    let models = Models::new(&["a/x", "a/y"]);
    let manager = models.manager(None, most(1));
    let x = manager.load("a/x").unwrap();
    let (prompt, params) = capital();
    let answer = x.stream(prompt, &params).unwrap();
    assert!(manager.loaded()[0].busy);
    let refused = manager.load("a/y").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
    assert!(refused.message().ends_with("at most 1 models are held; in use are a/x"), "{refused}");
    assert!(answer.finish().unwrap().text.contains("Paris"));
    assert!(manager.load("a/y").is_ok() && names(&manager) == ["a/y"]);
}

#[test]
fn plans_stay_within_the_bytes() {
    let models = Models::new(&["a/x", "a/y", "a/z"]);
    let one = models.manager(None, most(1));
    one.load("a/x").unwrap();
    let bytes = one.loaded()[0].memory.total();
    let two = ManagerLimits { models: None, bytes: Some(bytes * 5 / 2) };
    for manager in [models.manager(None, two), models.manager(Some(bytes * 5 / 2), ManagerLimits::default())] {
        for name in ["a/x", "a/y", "a/z"] {
            manager.load(name).unwrap();
        }
        assert_eq!(names(&manager), ["a/z", "a/y"]);
    }
    let small = models.manager(Some(bytes / 2), ManagerLimits::default());
    let refused = small.load("a/x").unwrap_err();
    assert!(refused.kind() == ErrorKind::OutOfMemory && refused.message().contains("weights"), "{refused}");
    assert!(names(&small).is_empty());
    // A twentieth is wanted free beside the rest.
    let tight = models.manager(Some(bytes * 2 + bytes / 20), ManagerLimits::default());
    tight.load("a/x").unwrap();
    tight.load("a/y").unwrap();
    assert_eq!(tight.relieve(), ["a/x"]);
    assert!(tight.relieve().is_empty());
}

#[test]
fn many_threads_and_many_models() {
    let all = ["a/x", "a/y", "a/z"];
    let models = Models::new(&all);
    let manager = models.manager(None, most(2));
    thread::scope(|scope| {
        for seed in 0..6 {
            let manager = &manager;
            scope.spawn(move || {
                for turn in 0..6 {
                    let name = all[(seed + turn * (seed + 1)) % 3];
                    // With two models in use at once there may be no room, and one may go before it answers.
                    let (prompt, params) = capital();
                    let answer = manager.load(name).and_then(|engine| engine.generate(prompt, &params));
                    match answer {
                        Ok(answer) => assert!(answer.text.contains("Paris")),
                        Err(error) => {
                            let told = [ErrorKind::OutOfMemory, ErrorKind::NotFound].contains(&error.kind());
                            assert!(told, "{error}");
                        }
                    }
                    assert!(manager.loaded().len() <= 2);
                }
            });
        }
    });
}

#[test]
fn what_is_not_here_is_told_to_all_who_wait() {
    let models = Models::new(&["a/x"]);
    let manager = models.manager(None, ManagerLimits::default());
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                let error = manager.load("mlx://no/model").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound);
                assert!(error.remedy().is_some(), "{error}");
            });
        }
    });
    assert!(manager.loaded().is_empty() && manager.load("a/x").is_ok());
    // What may be fetched is asked for, and offline it is not.
    let hub = HubConfig { offline: true, ..HubConfig::new(models.0.join("cache")) };
    let offline = models.manager(None, ManagerLimits::default()).fetching_from(hub);
    assert_eq!(offline.load("mlx://no/model").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(offline.ensure("a/x", &|_| {}, &Default::default()).unwrap(), Some(models.0.join("a/x")));
}
