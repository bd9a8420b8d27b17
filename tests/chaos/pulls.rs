//! A pull goes on where the last one broke off.

use std::time::Duration;

use futures_util::future::join_all;
use testhost::image::ImageConfig;

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
