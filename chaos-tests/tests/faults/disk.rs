//! The disk of one server is full: an ext4 file system of its own, to the last block.

use std::time::Instant;

use chaos_tests::real::binary;
use chaos_tests::real::cluster::Cluster;
use chaos_tests::real::fault::given;
use chaos_tests::real::fault::image::Image;

use crate::stopping::{it_stops_and_the_others_go_on, pick};
use crate::{AGENT, SERVERS};

/// Room for the data of a test, many times over.
pub const MEGABYTES: u64 = 16;
/// What a server ends with whose disk has no room for its first file, `EX_CANTCREAT`.
const NO_ROOM: i32 = 73;

/// Moves the `data` or `keys` of a daemon that does not run to a disk of its own.
pub fn move_folder(cluster: &Cluster, name: &str, kind: &str, disk: &Image) {
    let before = cluster.directory().join(kind).join(name);
    let after = disk.take(&before, kind);
    let quoted = |path: &std::path::Path| format!("{kind}_dir = \"{}\"", path.display());
    cluster.configure(name, |text| {
        assert!(text.contains(&quoted(&before)), "{text}");
        text.replace(&quoted(&before), &quoted(&after))
    });
}

#[test]
fn a_server_whose_disk_is_full_stops_and_comes_back_with_everything() {
    let disks = SERVERS.map(|_| Image::make(MEGABYTES));
    let disks = disks.into_iter().collect::<Result<Vec<_>, _>>();
    let Some(disks) = given("full disk of a server", disks) else {
        return;
    };
    let arguments = ["--servers", "3", "--x509-ttl", "60s"];
    let mut cluster = Cluster::make(binary::mintmark(), &arguments);
    for (name, disk) in SERVERS.iter().zip(&disks) {
        move_folder(&cluster, name, "data", disk);
        cluster.start(name);
    }
    cluster.start(AGENT);
    cluster.follow();
    cluster.check(&SERVERS);
    for leads in [false, true] {
        let begin = Instant::now();
        let victim = pick(&cluster, leads);
        let index = SERVERS.iter().position(|name| *name == victim).unwrap();
        disks[index].fill();
        it_stops_and_the_others_go_on(&mut cluster, victim, "No space left on device");
        cluster.start(victim);
        let status = cluster.ends(victim, |_| {});
        assert_eq!(status.code(), Some(NO_ROOM), "{}", cluster.log_of(victim));
        disks[index].make_room();
        cluster.start(victim);
        cluster.check(&SERVERS);
        eprintln!(
            "{victim} had a full disk, leader: {leads}: {:.1?}",
            begin.elapsed()
        );
    }
}
