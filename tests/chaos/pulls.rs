//! A pull goes on where the last one broke off.

use std::time::Duration;

use futures_util::future::join_all;
use testhost::image::ImageConfig;
use testhost::valve::{Pace, Valve};
use testhost::within::within;

use crate::control::Fault;
use crate::field::Field;
use crate::lives::{self, End};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_arrive_though_the_puller_dies_again_and_again() {
    let field = Field::new().await;
    let mut images = Vec::new();
    for n in 0..3 {
        let config = ImageConfig::default().ballast(24 << 20).salt(format!("pull-{n}"));
        images.push(field.rig.image(&format!("big{n}"), &config).await.expect("image"));
    }
    let deaths = async {
        for fault in [Fault::Kill, Fault::Abort].into_iter().cycle().take(12) {
            tokio::time::sleep(Duration::from_millis(120)).await;
            field.chaos.inject("image_puller", fault).await.expect("fault");
        }
        std::future::pending::<()>().await;
    };
    // Two tasks for each image: one pull that both wait for.
    let lives = (0..6).map(|n| lives::live(&field.rig, &images[n / 2], n, End::Exits));
    let lived = tokio::select! {
        lived = join_all(lives) => lived,
        () = deaths => unreachable!("ends never"),
    };
    for (n, life) in lived.into_iter().enumerate() {
        assert!(life.is_ok(), "task {n}: {life:?}\n{}", field.last_words());
    }
    field.settled().await.expect("settled");
}

/// Bytes of the one big layer.
const BALLAST: usize = 96 << 20;
const KILLS: u64 = 10;

/// The puller is killed ten times while one image is on its way, each time after some more of it has come.
async fn little_is_fetched_twice(config: serde_json::Value) {
    let field = Field::with(config).await;
    let salt = format!("killed-{}", field.rig.config()["image_pull_method"]);
    let config = ImageConfig::default().ballast(BALLAST).salt(salt);
    field.rig.image("killed/often", &config).await.expect("image");
    // Slower than containerd writes: what is on the way between the two when the puller dies is little.
    let valve = Valve::before(field.rig.registry.addr(), Pace::BytesPerSecond(12 << 20)).await;
    let image = valve.reference("killed/often");
    let deaths = async {
        for n in 1..=KILLS {
            let from = n * (BALLAST as u64 / (KILLS + 2));
            while valve.blob_bytes() < from {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            field.chaos.inject("image_puller", Fault::Kill).await.expect("fault");
        }
    };
    let life = async { tokio::join!(lives::live(&field.rig, &image, 0, End::Exits), deaths) };
    let (life, ()) = within(lives::PATIENCE * 2, "the pull and its deaths", life).await;
    assert!(life.is_ok(), "{life:?}\n{}", field.last_words());
    let came = valve.blob_bytes();
    println!("{came} bytes for {BALLAST} and {KILLS} deaths");
    assert!(came >= BALLAST as u64, "{came} bytes came by this way");
    assert!(
        came * 10 < BALLAST as u64 * 12,
        "{came} bytes for an image of {BALLAST}"
    );
    field.settled().await.expect("settled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_by_the_driver_survives_ten_deaths_and_fetches_little_twice() {
    little_is_fetched_twice(serde_json::json!({ "image_pull_method": "client" })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_by_whom_containerd_offers_survives_ten_deaths_and_fetches_little_twice() {
    little_is_fetched_twice(serde_json::json!({})).await;
}
