//! Sockets of plugins that were killed.

use std::os::unix::net::UnixListener;

use crate::{home, launch, sockets};

#[tokio::test]
async fn sockets_of_the_dead_are_removed_and_those_of_the_living_stay() {
    let home = home();
    let (dead, living) = (launch(&home).await, launch(&home).await);
    dead.sigkill().await.expect("dead");
    assert!(
        dead.socket().exists(),
        "SIGKILL leaves the socket, nobody else removes it"
    );
    // Not ours, though nobody listens.
    let foreign = home.path().join("plugin123456.sock");
    drop(UnixListener::bind(&foreign).expect("bind"));
    let next = launch(&home).await;
    assert!(!dead.socket().exists());
    assert!(living.socket().exists() && foreign.exists());
    assert_eq!(sockets(home.path()).len(), 3);
    for plugin in [living, next] {
        plugin.info().await.expect("PluginInfo");
    }
}
