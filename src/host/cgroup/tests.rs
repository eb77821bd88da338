use super::remove::{REMOVAL_PAUSE, remove_tree};
use super::systemd::{is_of_pods, percent};
use super::*;

#[test]
fn page_sizes_are_written_as_cgroups_write_them() {
    let sizes = [64, 2048, 1 << 20, 16 << 20].map(page_size);
    assert_eq!(sizes, ["64KB", "2MB", "1GB", "16GB"]);
}

#[test]
fn shares_become_weights_as_the_runtime_has_them() {
    let weights = [2, 102, 1024, 262_144].map(cpu_weight);
    assert_eq!(weights, [1, 4, 39, 10_000]);
}

#[test]
fn a_quota_becomes_percent_as_systemd_takes_it() {
    let found = [15_500, 100_000, 250_000, 1].map(percent);
    assert_eq!(found, ["15.50%", "100%", "250%", "0.01%"]);
}

#[test]
fn only_slices_of_pods_are_stopped() {
    for slice in [
        "kubepods.slice",
        "kubepods-burstable.slice",
        "kubepods-besteffort-pod1_2.slice",
        "kubelet-kubepods.slice",
    ] {
        assert!(is_of_pods(slice), "{slice}");
    }
    for other in [
        "kubepods",
        "system.slice",
        "kubepods-pod1.scope",
        "mykubepods.slice",
    ] {
        assert!(!is_of_pods(other), "{other}");
    }
}

#[test]
fn existing_cgroups_get_their_shares_in_every_hierarchy() {
    let root = tempfile::tempdir().unwrap();
    // A hierarchy of each kind: shares in the one, weights in the other.
    for hierarchy in ["cpu", "unified"] {
        for class in ["burstable", "besteffort"] {
            let class = root.path().join(hierarchy).join("kubepods").join(class);
            fs::create_dir_all(&class).unwrap();
            let file = match hierarchy {
                "cpu" => "cpu.shares",
                _ => "cpu.weight",
            };
            fs::write(class.join(file), "").unwrap();
        }
    }
    fs::write(root.path().join("cpu/cpu.shares"), "1024").unwrap();
    fs::write(root.path().join("unified/cgroup.controllers"), "cpu").unwrap();
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    let path = |class: &str| format!("/kubepods/{class}");
    for (burstable, shares, weight) in [(2, "2", "1"), (1536, "1536", "59")] {
        let all = [(path("burstable"), burstable), (path("besteffort"), 2)];
        update_shares(root.path(), CgroupDriver::Cgroupfs, || all).unwrap();
        assert_eq!(read("cpu/kubepods/burstable/cpu.shares"), shares);
        assert_eq!(read("unified/kubepods/burstable/cpu.weight"), weight);
        assert_eq!(read("cpu/kubepods/besteffort/cpu.shares"), "2");
        assert_eq!(read("unified/kubepods/besteffort/cpu.weight"), "1");
    }
}

#[test]
fn of_two_updates_at_once_the_one_that_read_last_writes_last() {
    let root = tempfile::tempdir().unwrap();
    let class = root.path().join("cpu/kubepods/burstable");
    fs::create_dir_all(&class).unwrap();
    fs::write(class.join("cpu.shares"), "").unwrap();
    fs::write(root.path().join("cpu/cpu.shares"), "1024").unwrap();
    let burstable = |shares| [("/kubepods/burstable".to_owned(), shares)];
    let (asked, begin) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (root, class) = (root.path(), &class);
        scope.spawn(move || {
            update_shares(root, CgroupDriver::Cgroupfs, || {
                asked.send(()).unwrap();
                // Time for the other one to overtake, if it could.
                std::thread::sleep(REMOVAL_PAUSE);
                burstable(1024)
            })
        });
        begin.recv().unwrap();
        update_shares(root, CgroupDriver::Cgroupfs, || burstable(2048)).unwrap();
        let shares = fs::read_to_string(class.join("cpu.shares")).unwrap();
        assert_eq!(shares, "2048");
    });
    let shares = fs::read_to_string(class.join("cpu.shares")).unwrap();
    assert_eq!(shares, "2048");
}

#[test]
fn huge_pages_of_a_slice_are_limited_in_every_hierarchy_that_has_them() {
    let limits = CgroupLimits {
        hugepages: vec![("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)],
        ..CgroupLimits::default()
    };
    let path = "kubepods.slice/kubepods-pod1.slice";
    let root = tempfile::tempdir().unwrap();
    let at = |file: &str| root.path().join(file);
    for hierarchy in ["hugetlb", "cpu"] {
        fs::create_dir(at(hierarchy)).unwrap();
    }
    fs::write(at("hugetlb/hugetlb.2MB.limit_in_bytes"), "").unwrap();
    let folder = format!("hugetlb/{path}");
    fs::create_dir_all(at(&folder)).unwrap();
    for size in ["2MB", "1GB"] {
        let file = format!("{folder}/hugetlb.{size}.limit_in_bytes");
        fs::write(at(&file), "8192").unwrap();
    }
    limit_hugepages(root.path(), path, &limits).unwrap();
    for (size, expected) in [("2MB", "4194304"), ("1GB", "0")] {
        let file = format!("{folder}/hugetlb.{size}.limit_in_bytes");
        assert_eq!(fs::read_to_string(at(&file)).unwrap(), expected);
    }
    assert!(!at("cpu/kubepods.slice").exists());

    let root = tempfile::tempdir().unwrap();
    let at = |file: &str| root.path().join(file);
    fs::create_dir_all(at(path)).unwrap();
    for folder in ["", "kubepods.slice"] {
        fs::write(at(folder).join("cgroup.controllers"), "hugetlb").unwrap();
    }
    let file = format!("{path}/hugetlb.2MB.max");
    fs::write(at(&file), "max").unwrap();
    limit_hugepages(root.path(), path, &limits).unwrap();
    assert_eq!(fs::read_to_string(at(&file)).unwrap(), "4194304");
    let handed = fs::read_to_string(at("kubepods.slice/cgroup.subtree_control"));
    assert_eq!(handed.unwrap(), "+hugetlb");
}

#[test]
fn a_cgroup_goes_with_the_empty_ones_below_it_from_every_hierarchy() {
    let root = tempfile::tempdir().unwrap();
    for hierarchy in ["cpu", "memory"] {
        fs::create_dir_all(root.path().join(hierarchy).join("kubepods/pod1/c1")).unwrap();
        fs::create_dir_all(root.path().join(hierarchy).join("kubepods/pod2")).unwrap();
    }
    for hierarchy in hierarchies(root.path()) {
        remove_tree(&hierarchy.join("kubepods/pod1")).unwrap();
        remove_tree(&hierarchy.join("kubepods/pod1")).unwrap();
        assert!(!hierarchy.join("kubepods/pod1").exists());
        assert!(hierarchy.join("kubepods/pod2").exists());
    }
    assert_eq!(hierarchies(root.path()).len(), 2);
}

#[test]
fn a_cgroup_is_removed_as_unused_only_while_nothing_is_below_it() {
    let root = tempfile::tempdir().unwrap();
    let classes = ["cpu", "unified"].map(|hierarchy| root.path().join(hierarchy).join("kubepods"));
    for class in &classes {
        fs::create_dir_all(class.join("podother")).unwrap();
    }
    remove_unused(root.path(), "/kubepods").unwrap();
    for class in &classes {
        assert!(class.join("podother").exists());
        fs::remove_dir(class.join("podother")).unwrap();
    }
    for _ in 0..2 {
        remove_unused(root.path(), "/kubepods").unwrap();
        assert!(!classes.iter().any(|class| class.exists()));
    }
}

#[test]
fn limits_are_set_where_their_controller_is() {
    let root = tempfile::tempdir().unwrap();
    let at = |file: &str| root.path().join(file);
    let roots = [
        ("cpu,cpuacct", "cpu.shares", "1024"),
        ("memory", "memory.limit_in_bytes", "9223372036854771712"),
        (
            "hugetlb",
            "hugetlb.2MB.limit_in_bytes",
            "9223372036854771712",
        ),
        ("freezer", "tasks", ""),
    ];
    let path = "kubepods/burstable/pod1";
    // The kernel makes the files with the folder.
    for (hierarchy, file, value) in roots {
        fs::create_dir_all(at(hierarchy).join(path)).unwrap();
        fs::write(at(hierarchy).join(file), value).unwrap();
        for of_any in ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"] {
            fs::write(at(hierarchy).join(path).join(of_any), "").unwrap();
        }
        for of_any in ["memory.limit_in_bytes", "hugetlb.2MB.limit_in_bytes"] {
            fs::write(at(hierarchy).join(path).join(of_any), "").unwrap();
        }
    }
    let limits = CgroupLimits {
        cpu_shares: 512,
        cpu_quota: 50_000,
        memory: 4096,
        hugepages: vec![("2MB".to_owned(), 2 << 20)],
        ..CgroupLimits::default()
    };
    create(root.path(), CgroupDriver::Cgroupfs, path, &limits).unwrap();
    let set = |hierarchy: &str, file: &str| {
        let file = at(hierarchy).join(path).join(file);
        fs::read_to_string(file).unwrap()
    };
    for (hierarchy, file, expected) in [
        ("cpu,cpuacct", "cpu.shares", "512"),
        ("cpu,cpuacct", "cpu.cfs_quota_us", "50000"),
        ("memory", "memory.limit_in_bytes", "4096"),
        ("hugetlb", "hugetlb.2MB.limit_in_bytes", "2097152"),
        ("freezer", "cpu.shares", ""),
        ("freezer", "memory.limit_in_bytes", ""),
        ("memory", "hugetlb.2MB.limit_in_bytes", ""),
    ] {
        assert_eq!(set(hierarchy, file), expected, "{hierarchy}/{file}");
    }
}

#[test]
fn a_new_cgroup_is_created_where_there_may_be_something_to_limit() {
    let root = tempfile::tempdir().unwrap();
    for (hierarchy, file) in [
        ("cpu,cpuacct", "cpu.shares"),
        ("cpuset", "cpuset.cpus"),
        ("devices", "devices.allow"),
        ("memory", "memory.limit_in_bytes"),
        ("net_cls,net_prio", "tasks"),
        ("pids", "tasks"),
        ("unknown", "tasks"),
    ] {
        fs::create_dir(root.path().join(hierarchy)).unwrap();
        fs::write(root.path().join(hierarchy).join(file), "1\n").unwrap();
    }
    let created = |pod: &str, limits: CgroupLimits| {
        create(root.path(), CgroupDriver::Cgroupfs, pod, &limits).unwrap();
        let mut found: Vec<String> = hierarchies(root.path())
            .into_iter()
            .filter(|hierarchy| hierarchy.join(pod).is_dir())
            .map(|hierarchy| hierarchy.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        found.join(" ")
    };
    let limits = CgroupLimits::default;
    assert_eq!(created("pod1", limits()), "cpu,cpuacct memory unknown");
    let pids = CgroupLimits {
        pids: Some(9),
        ..limits()
    };
    assert_eq!(created("pod2", pids), "cpu,cpuacct memory pids unknown");

    // A limit that is gone is taken back where the cgroup exists.
    let file = root.path().join("memory/pod2/memory.limit_in_bytes");
    fs::write(&file, "4096").unwrap();
    create(root.path(), CgroupDriver::Cgroupfs, "pod2", &limits()).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "-1");
}

#[test]
fn a_cpuset_gets_what_those_around_it_have() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("kubepods/burstable/pod1");
    fs::create_dir_all(&folder).unwrap();
    for (file, value) in [("cpuset.cpus", "0-3\n"), ("cpuset.mems", "0\n")] {
        for around in folder.ancestors().take(3) {
            fs::write(around.join(file), "\n").unwrap();
        }
        fs::write(root.path().join(file), value).unwrap();
    }
    create_cpuset(root.path(), &folder).unwrap();
    let cpus = |folder: &Path| fs::read_to_string(folder.join("cpuset.cpus")).unwrap();
    assert_eq!(cpus(&folder), "0-3\n");
    assert_eq!(cpus(&root.path().join("kubepods")), "0-3\n");

    // What is there is left alone.
    fs::write(folder.join("cpuset.cpus"), "2\n").unwrap();
    create_cpuset(root.path(), &folder).unwrap();
    assert_eq!(cpus(&folder), "2\n");
}
