//! `make bench`: what pulls cost through the plugin protocol, beside `ctr images pull` on the same containerd in the same
//! run, and how much memory the plugin takes for a large layer. Prints figures and gates nothing. Needs root, runc,
//! docker-registry and a driver (`CD_DRIVER_BIN`, else the one that cargo has built for this).
//!
//! | figure | how |
//! |---|---|
//! | one image | 8 layers, 185 MB compressed, of which the node has nothing; a start of a task, and `ctr images pull` with `ctr run` |
//! | the pull alone | the answer to a start, less the answer to one whose image is there; what comes after the answer is no part of a pull |
//! | many at once | 20 images of 3 layers each, none of which the node has; starts of 20 tasks, and 20 times `ctr images pull` with `ctr run` |
//! | a large layer | 1 GB; the plugin's resident memory at its highest (`VmHWM`, which the kernel is told to forget before) |

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use std::time::{Duration, Instant};
use testhost::containerd::ContainerdKind;
use testhost::layers::{Layer, Packing, Plan};
use testhost::registry_proxy::RegistryProxy;
use testhost::rig::{Rig, RigOpts};
use testhost::task::TaskSpec;

/// Each is done so often, one way and the other in turn; the median counts.
const ROUNDS: usize = 5;
/// Images at once.
const AT_ONCE: usize = 20;
/// Layers above the base, each of some files like those of a distribution: text and what does not compress.
const LAYERS: usize = 7;
const LAYER_BYTES: usize = 58_000_000;
const LAYER_FILES: usize = 120;
/// Of 100 bytes of a file, those that do not compress.
const LAYER_NOISE: usize = 45;
/// The large layer.
const LARGE_BYTES: usize = 1 << 30;

/// `ctr`'s namespace.
const THEIRS: &str = "bench";

fn main() -> Result<()> {
    // cargo passes `--bench`; there is nothing to choose.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        for (name, kind) in [
            ("containerd 1.6", ContainerdKind::Debian16),
            ("containerd 2.4", ContainerdKind::V24),
        ] {
            if !ContainerdKind::available().contains(&kind) {
                println!("{name}: not on this machine, left out");
                continue;
            }
            measure(name, kind).await.with_context(|| name.to_owned())?;
        }
        Ok(())
    })
}

fn opts(kind: ContainerdKind) -> RigOpts {
    match std::env::var_os("CD_DRIVER_BIN") {
        Some(bin) => RigOpts::of(kind, bin),
        None => RigOpts::of(kind, env!("CARGO_BIN_EXE_containerd-driver")),
    }
}

async fn measure(name: &str, kind: ContainerdKind) -> Result<()> {
    let rig = Rig::with(opts(kind)).await?;
    let (version, _revision) = rig.containerd.version().await?;
    println!("\n{name} ({version}), pulls");
    println!("  {:<44}{:>10}{:>10}{:>8}", "", "driver", "ctr", "ratio");
    one_image(&rig).await?;
    many_images(&rig).await?;
    large_layer(&rig).await
}

/// The image of the issue: as many layers and bytes as a usual language runtime has.
fn usual() -> Plan {
    (0..LAYERS).fold(Plan::new("usual"), |plan, n| {
        plan.layer(Layer {
            files: LAYER_FILES,
            noise: LAYER_NOISE,
            packing: Packing::Gzip,
            ..Layer::of(LAYER_BYTES, format!("usual-{n}"))
        })
    })
}

async fn one_image(rig: &Rig) -> Result<()> {
    let image = usual().build()?;
    let bytes: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
    let layers = image.layers.len();
    rig.registry.push("bench/usual", "1", &image).await?;
    drop(image);
    let image = rig.registry.reference("bench/usual", "1");
    let (mut whole, mut cold, mut warm, mut pulled, mut run) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        empty(rig, THEIRS).await?;
        whole.push(
            timed(async {
                cold.push(start(rig, &image).await?);
                Ok(())
            })
            .await?,
        );
        warm.push(start(rig, &image).await?);
        remove(rig, rig.namespace(), &image).await?;
        empty(rig, rig.namespace()).await?;
        pulled.push(timed(ctr_pull(rig, &image)).await?);
        run.push(timed(ctr_run(rig, &image)).await?);
        remove(rig, THEIRS, &image).await?;
    }
    let [whole, cold, warm, pulled, run] = [whole, cold, warm, pulled, run].map(median);
    let size = format!("{layers} layers, {} MB", bytes / 1_000_000);
    row(&format!("pull and start, {size}"), whole, pulled + run);
    row(&format!("the pull alone, {size}"), cold.saturating_sub(warm), pulled);
    Ok(())
}

async fn many_images(rig: &Rig) -> Result<()> {
    let mut images = Vec::new();
    for n in 0..AT_ONCE {
        let salt = format!("many-{n}");
        let layer = |part: &str| Layer {
            files: 20,
            noise: LAYER_NOISE,
            packing: Packing::Gzip,
            ..Layer::of(8_000_000, format!("{salt}-{part}"))
        };
        let plan = Plan::new(&salt).layer(layer("a")).layer(layer("b"));
        let name = format!("bench/{salt}");
        rig.registry.push(&name, "1", &plan.build()?).await?;
        images.push(rig.registry.reference(&name, "1"));
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let starts = images.iter().map(|image| start(rig, image));
        ours.push(timed(async { try_join_all(starts).await.map(drop) }).await?);
        for image in &images {
            remove(rig, rig.namespace(), image).await?;
        }
        empty(rig, rig.namespace()).await?;
        let pulls = images.iter().map(|image| async move {
            ctr_pull(rig, image).await?;
            ctr_run(rig, image).await
        });
        theirs.push(timed(async { try_join_all(pulls).await.map(drop) }).await?);
        for image in &images {
            remove(rig, THEIRS, image).await?;
        }
        empty(rig, THEIRS).await?;
    }
    let [ours, theirs] = [ours, theirs].map(median);
    row(&format!("pull and start, {AT_ONCE} images at once, all"), ours, theirs);
    Ok(())
}

async fn large_layer(rig: &Rig) -> Result<()> {
    let image = Plan::new("large").layer(Layer::of(LARGE_BYTES, "large")).build()?;
    rig.registry.push("bench/large", "1", &image).await?;
    drop(image);
    let proxy = RegistryProxy::before(rig.registry.addr()).await?;
    let image = proxy.reference("bench/large", "1");
    let pid = rig.plugin().pid();
    // Forgets the highest resident memory so far (proc(5)).
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("clear_refs")?;
    let before = highest_kib(pid)?;
    let took = start(rig, &image).await?;
    let after = highest_kib(pid)?;
    remove(rig, rig.namespace(), &image).await?;
    println!(
        "  a layer of {} MB in {:.1} s: memory at most {:.1} MB ({:.1} MB before)",
        LARGE_BYTES >> 20,
        took.as_secs_f64(),
        after as f64 / 1024.0,
        before as f64 / 1024.0,
    );
    Ok(())
}

fn highest_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
    kib.context("no VmHWM in /proc/pid/status")
}

/// Starts a task of the image, and takes it away once it has ended. The answer is how long the start took.
async fn start(rig: &Rig, image: &str) -> Result<Duration> {
    let begun = Instant::now();
    let task = rig.start(TaskSpec::new(image).command(["true"])).await?;
    let started = begun.elapsed();
    task.wait().await?;
    task.destroy(true).await?;
    Ok(started)
}

async fn ctr_pull(rig: &Rig, image: &str) -> Result<()> {
    let pull = ["images", "pull", "--plain-http", image];
    rig.containerd.ctr(THEIRS, &pull).await.map(drop)
}

async fn ctr_run(rig: &Rig, image: &str) -> Result<()> {
    let id = format!("run-{}", testhost::alloc::random_hex(6));
    let run = ["run", "--rm", "--null-io", image, &id, "true"];
    rig.containerd.ctr(THEIRS, &run).await.map(drop)
}

/// Takes the image away with all that it is made of: what one namespace has fetched another would not fetch again.
async fn remove(rig: &Rig, namespace: &str, image: &str) -> Result<()> {
    let known = rig.containerd.ctr(namespace, &["images", "ls", "-q"]).await?;
    if known.lines().any(|line| line == image) {
        rig.containerd
            .ctr(namespace, &["images", "rm", "--sync", image])
            .await?;
    }
    Ok(())
}

/// Asserts that a namespace holds nothing, so that a pull is one.
async fn empty(rig: &Rig, namespace: &str) -> Result<()> {
    let left = rig.containerd.ctr(namespace, &["content", "ls", "-q"]).await?;
    ensure!(left.trim().is_empty(), "content is left in {namespace}: {left}");
    Ok(())
}

async fn timed(work: impl Future<Output = Result<()>>) -> Result<Duration> {
    let begun = Instant::now();
    work.await?;
    Ok(begun.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn row(what: &str, ours: Duration, theirs: Duration) {
    let ms = |d: Duration| format!("{:.0} ms", d.as_secs_f64() * 1000.0);
    println!(
        "  {what:<44}{:>10}{:>10}{:>8.2}",
        ms(ours),
        ms(theirs),
        ours.as_secs_f64() / theirs.as_secs_f64()
    );
}
