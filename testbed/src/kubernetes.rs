//! Location of the programs of a Kubernetes control plane on this machine.
//!
//! A developer's own programs are used first (`KUBEBUILDER_ASSETS`, then the search path), then those of
//! `cargo xtask tools kubernetes`. The API server, the controller manager and the scheduler come from one
//! place or from none: a controller manager that is newer than its API server is unsupported. Nothing is
//! built or started here.

use std::path::{Path, PathBuf};

/// Variable with the usual folder of controller authors: etcd, the API server, kubectl.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// Names the folder with what was built.
pub const FOLDER_VARIABLE: &str = "BERTH_KUBERNETES_DIR";

/// Those that must be of one version.
const TOGETHER: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The programs, each with its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Path of etcd, the database.
    pub etcd: PathBuf,
    /// The API server.
    pub apiserver: PathBuf,
    /// Path of the controller manager.
    pub controllers: PathBuf,
    /// Path of the scheduler.
    pub scheduler: PathBuf,
    /// For people, and to apply manifests.
    pub kubectl: PathBuf,
}

impl Programs {
    /// Finds them in `places`, first come first served; otherwise the names of those that are missing.
    pub fn find(places: &[PathBuf]) -> Result<Self, Vec<&'static str>> {
        let all = |place: &&PathBuf| TOGETHER.iter().all(|name| is_program(&place.join(name)));
        let core = places.iter().find(all);
        let single =
            |name: &str| places.iter().map(|place| place.join(name)).find(|path| is_program(path.as_path()));
        match (core, single("etcd"), single("kubectl")) {
            (Some(core), Some(etcd), Some(kubectl)) => {
                let [apiserver, controllers, scheduler] = TOGETHER.map(|name| core.join(name));
                Ok(Self { etcd, apiserver, controllers, scheduler, kubectl })
            }
            (core, etcd, kubectl) => {
                let mut missing = Vec::new();
                missing.extend(TOGETHER.into_iter().filter(|_| core.is_none()));
                missing.extend(Some("etcd").filter(|_| etcd.is_none()));
                missing.extend(Some("kubectl").filter(|_| kubectl.is_none()));
                Err(missing)
            }
        }
    }

    /// Those that this process's environment leads to.
    pub fn of_environment() -> Result<Self, Vec<&'static str>> {
        Self::find(&places(std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from)))
    }
}

/// Places to search, in order: the developer's own, then `built`.
pub fn places(built: Option<PathBuf>) -> Vec<PathBuf> {
    let assets = std::env::var_os(ASSETS_VARIABLE).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    assets.into_iter().chain(std::env::split_paths(&path)).chain(built).collect()
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    // Followed: what developers have is often a link.
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, programs: &[&str]) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("{}-{name}", crate::cleanup::prefix()));
        std::fs::create_dir_all(&folder).unwrap();
        for program in programs {
            let path = folder.join(program);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        folder
    }

    #[test]
    fn the_three_come_from_one_place_and_the_rest_from_wherever_it_is_first() {
        let assets = folder("assets", &["etcd", "kube-apiserver", "kubectl"]);
        let built = folder("built", &["etcd", "kubectl", TOGETHER[0], TOGETHER[1], TOGETHER[2]]);
        let found = Programs::find(&[assets.clone(), built.clone()]).unwrap();
        assert_eq!(found.etcd, assets.join("etcd"));
        assert_eq!(found.apiserver, built.join("kube-apiserver"), "not the one without its controllers");
        let missing = Programs::find(std::slice::from_ref(&assets)).unwrap_err();
        assert_eq!(missing, TOGETHER);
        assert_eq!(Programs::find(&[]).unwrap_err().len(), 5);
        for folder in [assets, built] {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn a_file_that_cannot_be_run_is_no_program() {
        let place = folder("plain", &TOGETHER);
        std::fs::write(place.join("etcd"), "").unwrap();
        std::fs::write(place.join("kubectl"), "").unwrap();
        assert_eq!(Programs::find(std::slice::from_ref(&place)).unwrap_err(), ["etcd", "kubectl"]);
        std::fs::remove_dir_all(place).unwrap();
    }
}
