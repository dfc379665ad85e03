//! The page of `samclip serve` in headless Chromium, against the command line: what people click, type, draw and
//! download is what the library says, to the pixel; a reload, a killed server and a hostile name lose nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use samclip_browser::{Browser, Hand, Server, command_line, photo, scratch, skip_without_browser};
use serde_json::{Value, json};

const DESK: [u32; 2] = [1440, 900];

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("the download is there")).expect("JSON")
}

/// The masks of `samclip segment PHOTO ... --json`.
fn segment(photo: &Path, prompt: &[&str]) -> Vec<Value> {
    let photo = text(photo);
    let arguments = [&["segment", &photo, "--json"], prompt].concat();
    command_line(&arguments)["images"][0]["masks"].as_array().expect("masks").clone()
}

/// Name and mask of every annotation of a COCO file.
fn coco_masks(file: &Value) -> Vec<(String, Value)> {
    let categories = file["categories"].as_array().expect("categories");
    let name = |id: &Value| {
        categories.iter().find(|c| c["id"] == *id).map(|c| c["name"].as_str().unwrap_or("").to_owned())
    };
    let annotations = file["annotations"].as_array().expect("annotations");
    annotations
        .iter()
        .map(|a| (name(&a["category_id"]).expect("a category"), a["segmentation"].clone()))
        .collect()
}

/// A server and its page on a desk's screen; none without a browser.
async fn opened(options: &[&str], dark: bool) -> Option<(Server, Browser)> {
    if skip_without_browser() {
        return None;
    }
    let server = Server::start(options);
    let page = Browser::open(&server.url(), DESK, dark).await;
    Some((server, page))
}

/// Names and masks of the photo on the screen, as its COCO download has them.
async fn masks(page: &Browser) -> Vec<(String, Value)> {
    coco_masks(&read(&page.download("coco", false).await))
}

/// The whole session of the issue: drop, type, click, box, undo, erase, switch, export; then reload.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_dropped_photo_to_coco_file() {
    let Some((_server, page)) = opened(&[], true).await else { return };
    let cat = photo("cat.jpg");
    page.drop_photos(std::slice::from_ref(&cat)).await;

    page.find("cat").await;
    page.settled().await;
    page.keys(&["n"]).await;
    page.click([120, 60], Hand::Left).await;
    page.settled().await;
    page.click([300, 200], Hand::Right).await;
    page.settled().await;
    page.keys(&["n"]).await;
    page.drag([100, 80], [300, 220]).await;
    page.settled().await;

    let boxed = page.js("(await import('/assets/store.js')).activeObject((await import('/assets/store.js')).current()).prompt.box").await;
    let corners: Vec<f64> = boxed.as_array().expect("a box").iter().filter_map(Value::as_f64).collect();
    for (found, drawn) in corners.iter().zip([100.0, 80.0, 300.0, 220.0]) {
        assert!((found - drawn).abs() <= 1.0, "drawn from 100, 80 to 300, 220: {boxed}");
    }
    let corners = corners.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    let expected = [
        ("cat", segment(&cat, &["--text", "cat"])[0]["segmentation"].clone()),
        (
            "object",
            segment(&cat, &["--point", "120,60,1", "--point", "300,200,0"])[0]["segmentation"].clone(),
        ),
        ("object", segment(&cat, &["--box", &corners])[0]["segmentation"].clone()),
    ];
    let whole = masks(&page).await;
    assert_eq!(whole.len(), 3);
    for ((name, mask), (expected_name, expected_mask)) in whole.iter().zip(&expected) {
        assert_eq!(
            (name.as_str(), mask),
            (*expected_name, expected_mask),
            "the page's mask is the command line's"
        );
    }

    // One step back: the box is gone, its object is still there and empty, so the file leaves it out.
    page.keys(&["Control+z"]).await;
    let undone = masks(&page).await;
    assert_eq!(undone, whole[..2]);
    page.keys(&["Control+Shift+z"]).await;
    page.settled().await;

    // Switch to the first object and erase a stripe of it; the others stay as they are.
    page.keys(&["1", "e"]).await;
    page.drag([150, 150], [320, 170]).await;
    let erased_file = page.download("coco", false).await;
    let erased = coco_masks(&read(&erased_file));
    assert_ne!(erased[0].1, whole[0].1, "the eraser takes pixels away");
    assert_eq!(erased[1..], whole[1..]);
    let area = |file: &Value, i: usize| file["annotations"][i]["area"].as_u64().expect("an area");
    let before = segment(&cat, &["--text", "cat"])[0]["area"].as_u64().expect("an area");
    assert!(area(&read(&erased_file), 0) < before);

    page.client.refresh().await.expect("the page loads again");
    page.settled().await;
    assert_eq!(
        masks(&page).await,
        erased,
        "a reload restores everything"
    );
    page.js("document.querySelector('#stage').focus()").await;
    page.keys(&["Control+z"]).await;
    assert_eq!(masks(&page).await, whole, "and the history");
    page.close().await;
}

/// PNG, COCO, LabelMe and YOLO files hold what `--format` writes, also for a name that is not in the photo.
#[tokio::test(flavor = "multi_thread")]
async fn downloads_are_the_command_lines_files() {
    let Some((_server, page)) = opened(&[], false).await else { return };
    let cat = photo("cat.jpg");
    page.drop_photos(std::slice::from_ref(&cat)).await;
    page.find("cat, dog").await;
    page.settled().await;
    let out = scratch();
    let (photo, folder) = (text(&cat), text(out.path()));
    let mut arguments = vec!["segment", &photo, "--text", "cat", "--text", "dog", "--out", &folder];
    arguments.extend(["png", "coco", "labelme", "yolo"].into_iter().flat_map(|format| ["--format", format]));
    command_line(&arguments);
    let written = |name: &str| out.path().join(name);

    let numbers = |value: &Value| {
        value["points"]
            .as_array()
            .expect("points")
            .iter()
            .flat_map(|p| [p[0].as_f64(), p[1].as_f64()])
            .collect::<Vec<_>>()
    };
    let shapes = |file: &Value| -> Vec<_> {
        let list = file["shapes"].as_array().expect("shapes").iter();
        list.map(|s| (s["label"].clone(), s["group_id"].clone(), numbers(s))).collect()
    };
    let (ours, theirs) = (read(&page.download("labelme", false).await), read(&written("cat.json")));
    assert_eq!(shapes(&ours), shapes(&theirs));
    for field in ["version", "imagePath", "imageHeight", "imageWidth"] {
        assert_eq!(ours[field], theirs[field], "{field}");
    }

    let mut archive =
        zip::ZipArchive::new(std::fs::File::open(page.download("yolo", false).await).unwrap()).unwrap();
    for name in ["cat.txt", "classes.txt"] {
        let ours = std::io::read_to_string(archive.by_name(name).unwrap()).unwrap();
        assert_eq!(ours, std::fs::read_to_string(written(name)).unwrap(), "{name}");
    }

    let mut archive =
        zip::ZipArchive::new(std::fs::File::open(page.download("png", false).await).unwrap()).unwrap();
    for name in ["cat_0.png", "cat_1.png"] {
        let mut ours = Vec::new();
        std::io::copy(&mut archive.by_name(name).unwrap(), &mut ours).unwrap();
        assert_eq!(grey_pixels(&ours), grey_pixels(&std::fs::read(written(name)).unwrap()), "{name}");
    }

    let (mut ours, mut theirs) = (read(&page.download("coco", false).await), read(&written("coco.json")));
    round_scores(&mut ours);
    round_scores(&mut theirs);
    assert_eq!(ours, theirs);
    page.close().await;
}

/// Width, height and bytes of an 8-bit grey PNG.
fn grey_pixels(file: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("it fits")];
    let info = reader.next_frame(&mut pixels).expect("whole");
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Grayscale, png::BitDepth::Eight));
    (info.width, info.height, pixels)
}

/// Scores are 32-bit numbers, written as such by one side and as 64-bit numbers by the other.
fn round_scores(file: &mut Value) {
    for annotation in file["annotations"].as_array_mut().expect("annotations") {
        for key in ["score", "predicted_iou", "stability_score"] {
            annotation[key] = json!(annotation[key].as_f64().expect("a number") as f32);
        }
        annotation["area"] = json!(annotation["area"].as_f64());
        annotation["bbox"] =
            annotation["bbox"].as_array().expect("a box").iter().map(|v| json!(v.as_f64())).collect();
    }
}

/// A killed server: what is asked waits, painting goes on, a reload keeps it, and all is answered when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing() {
    let Some((mut server, page)) = opened(&[], true).await else { return };
    let cat = photo("cat.jpg");
    page.drop_photos(std::slice::from_ref(&cat)).await;
    page.find("cat").await;
    page.settled().await;

    server.kill();
    page.keys(&["n"]).await;
    page.click([120, 60], Hand::Left).await;
    page.keys(&["n"]).await;
    page.drag([200, 40], [360, 200]).await;
    page.until("document.querySelector('#connection').dataset.phase === 'offline'").await;
    page.until("document.querySelectorAll('.object .waiting').length === 2").await;
    page.until("document.querySelector('#status').textContent.includes('2 prompts wait')").await;
    page.keys(&["1", "b"]).await;
    page.drag([20, 20], [60, 20]).await;
    let offline = masks(&page).await;
    assert_eq!(offline.len(), 1, "what is there can be downloaded without a server");
    page.client.refresh().await.expect("the page is kept");
    page.until("document.querySelector('#connection')?.dataset.phase === 'offline'").await;
    page.until("document.querySelectorAll('.object .waiting').length === 2").await;
    assert_eq!(masks(&page).await, offline, "a reload without a server");

    server.restart();
    page.settled().await;
    let back = masks(&page).await;
    assert_eq!(back.len(), 3);
    assert_eq!(back[0], offline[0], "the stroke is kept");
    assert_eq!(back[1].1, segment(&cat, &["--point", "120,60"])[0]["segmentation"]);

    // Again, with a reload between asking and the answer.
    server.kill();
    page.keys(&["c", "n"]).await;
    page.click([400, 40], Hand::Left).await;
    page.until("document.querySelectorAll('.object .waiting').length === 1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    page.client.goto("about:blank").await.expect("it leaves"); // no old page is there to be answered
    server.restart();
    page.client.goto(&server.url()).await.expect("the page loads again");
    page.settled().await;
    let restored = masks(&page).await;
    assert_eq!(restored[..3], back);
    assert_eq!(restored[3].1, segment(&cat, &["--point", "400,40"])[0]["segmentation"]);
    page.close().await;
}

/// Names are text: a script in one runs neither in the lists nor in the dialogs, and arrives unharmed in the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_as_a_name_does_nothing() {
    let Some((_server, page)) = opened(&[], true).await else { return };
    let evil = "<img src=x onerror=\"window.pwned = 1\"><script>window.pwned = 2</script>";
    let folder = scratch();
    let file = folder.path().join("<img src=x onerror='window.pwned = 3'>.jpg");
    std::fs::copy(photo("cat.jpg"), &file).expect("a copy");
    page.drop_photos(&[file]).await;
    page.click([120, 60], Hand::Left).await;
    page.settled().await;
    page.keys(&["F2"]).await;
    page.type_text(&format!("{evil}\n")).await;
    assert_eq!(masks(&page).await[0].0, evil);
    let harmless = async || {
        let elements = "document.querySelectorAll('main img, aside img, footer img, dialog img, script').length";
        let state = page.js(&format!("[window.pwned === undefined, {elements}]")).await;
        assert_eq!(state, json!([true, 1]), "the one script is the page's own");
    };
    page.press("#download").await;
    harmless().await;
    page.keys(&["Escape"]).await;
    page.find(evil).await;
    page.until("document.querySelector('#trouble').textContent !== ''").await;
    harmless().await;
    page.client.refresh().await.expect("the page loads again");
    page.settled().await;
    harmless().await;
    page.close().await;
}

/// Everything works without a mouse.
#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_is_enough() {
    let Some((_server, page)) = opened(&[], false).await else { return };
    page.drop_photos(&[photo("cat.jpg"), photo("coffee.jpg")]).await;
    page.js("document.querySelector('#stage').focus()").await;
    page.keys(&["ArrowRight", "ArrowDown", "Enter"]).await;
    page.settled().await;
    page.keys(&["Shift+ArrowLeft", "Alt+Enter"]).await;
    page.settled().await;
    page.keys(&["n", "r", "Shift+ArrowRight", "Shift+ArrowDown", "Shift+ArrowDown", "r"]).await;
    page.settled().await;
    page.keys(&["b", "Enter", "v", "c"]).await;
    let work = page.js("(await import('/assets/store.js')).current().document.objects.map(({ prompt, edits }) => [prompt.points.map((p) => p[2]), prompt.box !== null, edits !== null])").await;
    assert_eq!(work, json!([[[1, 0], false, false], [[], true, true]]));
    page.keys(&["Delete"]).await;
    page.until("document.querySelectorAll('.object').length === 1").await;
    page.keys(&["Control+z"]).await;
    page.until("document.querySelectorAll('.object').length === 2").await;
    page.keys(&["PageDown"]).await;
    page.until("document.title.startsWith('coffee.jpg')").await;
    page.keys(&["/"]).await;
    assert_eq!(page.js("document.activeElement.id").await, json!("text"));
    page.close().await;
}

/// A text for every photo: progress, the same masks as the command line, one file for all.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_photos() {
    let Some((_server, page)) = opened(&[], true).await else { return };
    let folder = scratch();
    let sources = ["cat.jpg", "coffee.jpg", "rocket.jpg"].map(photo);
    let expected = sources.each_ref().map(|source| segment(source, &["--text", "cat"]).remove(0));
    let photos: Vec<PathBuf> = (0..12).map(|i| folder.path().join(format!("p{i:02}.jpg"))).collect();
    for (path, source) in photos.iter().zip(sources.iter().cycle()) {
        std::fs::copy(source, path).expect("a copy");
    }
    page.drop_photos(&photos).await;
    page.js("document.querySelector('#text').value = 'cat'").await;
    page.press("#find-all").await;
    page.until("!document.querySelector('#progress').classList.contains('idle')").await;
    page.until("document.querySelector('#progress').classList.contains('idle')").await;
    let file = read(&page.download("coco", true).await);
    let images = file["images"].as_array().expect("images");
    for (path, expected) in photos.iter().zip(expected.iter().cycle()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let image = images.iter().find(|image| image["file_name"] == name);
        let annotations = file["annotations"].as_array().expect("annotations").iter();
        let mut ours = annotations.filter(|a| image.is_some_and(|image| a["image_id"] == image["id"]));
        match expected["area"].as_u64() {
            Some(0) => assert!(image.is_none(), "{name}: nothing was found"),
            _ => assert_eq!(ours.next().expect(name)["segmentation"], expected["segmentation"], "{name}"),
        }
    }
    page.close().await;
}

/// "Everything" to pick from, and the heat map of a name, are the server's own answers.
#[tokio::test(flavor = "multi_thread")]
async fn everything_to_pick_from_and_the_heat_map() {
    let Some((_server, page)) = opened(&[], true).await else { return };
    let coffee = photo("coffee.jpg");
    page.drop_photos(std::slice::from_ref(&coffee)).await;
    page.keys(&["a"]).await;
    page.until("document.querySelector('#mode-bar input')").await;
    page.hover([300, 200]).await;
    page.until("(await import('/assets/modes.js')).mode.hover").await;
    page.click([300, 200], Hand::Left).await;
    page.until("document.querySelectorAll('.object').length === 1").await;
    page.keys(&["Escape"]).await;
    page.until("document.querySelector('#mode-bar').hidden").await;
    let picked = masks(&page).await.remove(0).1;
    let (photo, grid) = (text(&coffee), ["--points-per-side", "16", "--pred-iou-thresh", "0.1"]);
    let arguments = [&["everything", &photo, "--json", "--stability-score-thresh", "0"], &grid[..]].concat();
    let all = command_line(&arguments)["images"][0]["masks"].clone();
    let known = all.as_array().expect("masks").iter().any(|mask| mask["segmentation"] == picked);
    assert!(known, "the picked mask is one of the command line's");

    page.js("document.querySelector('#text').value = 'cat'").await;
    page.keys(&["m"]).await;
    page.until("document.querySelector('#mode-bar .ramp')").await;
    let heat = page.js("(await import('/assets/modes.js')).mode.heat").await;
    let located = command_line(&["locate", &photo, "--text", "cat", "--json"]);
    let similarity = located["images"][0]["locations"][0]["similarity"].as_array().expect("numbers").clone();
    let highest = similarity.iter().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
    assert!((heat["high"].as_f64().expect("a number") - highest).abs() < 1e-6);
    page.press("#mode-bar .primary").await;
    page.until("document.querySelectorAll('.object').length === 2").await;
    page.close().await;
}

/// What the mouse rests on is shown before the click, and the click gives just that.
#[tokio::test(flavor = "multi_thread")]
async fn a_preview_under_the_pointer() {
    let Some((_server, page)) = opened(&[], true).await else { return };
    let cat = photo("cat.jpg");
    page.drop_photos(std::slice::from_ref(&cat)).await;
    page.until("(await import('/assets/store.js')).current().key").await;
    page.hover([120, 60]).await;
    page.until("(await import('/assets/view.js')).view.preview").await;
    let shown = page.js("(await import('/assets/view.js')).view.preview.mask").await;
    assert_eq!(shown, segment(&cat, &["--point", "120,60"])[0]["segmentation"]);
    assert_eq!(page.js("document.querySelectorAll('.object').length").await, json!(0));
    page.click([120, 60], Hand::Left).await;
    page.settled().await;
    assert_eq!(masks(&page).await[0].1, shown);
    page.close().await;
}

/// Contrast of every visible text in both themes, nothing that moves, no sideways scrolling on a phone.
#[tokio::test(flavor = "multi_thread")]
async fn texts_are_readable_and_nothing_moves() {
    if skip_without_browser() {
        return;
    }
    let server = Server::start(&[]);
    for (size, dark) in [(DESK, true), (DESK, false), ([390, 844], true), ([390, 844], false)] {
        let page = Browser::open(&server.url(), size, dark).await;
        page.js("{ window.moved = 0; new PerformanceObserver((list) => { for (const e of list.getEntries()) window.moved += e.value; }).observe({ type: 'layout-shift', buffered: true }); }").await;
        assert_eq!(page.js(CONTRAST).await, json!([]), "empty page, dark: {dark}");
        page.drop_photos(&[photo("cat.jpg"), photo("coffee.jpg")]).await;
        page.find("cat").await;
        page.settled().await;
        assert_eq!(page.js(CONTRAST).await, json!([]), "with an object, dark: {dark}");
        page.press("#help").await;
        assert_eq!(page.js(CONTRAST).await, json!([]), "help, dark: {dark}");
        page.keys(&["Escape"]).await;
        page.press("#download").await;
        assert_eq!(page.js(CONTRAST).await, json!([]), "download, dark: {dark}");
        page.keys(&["Escape"]).await;
        let moved = page.js("window.moved").await.as_f64().expect("a number");
        assert!(moved < 0.01, "layout shift {moved} at {size:?}");
        let wide = page.js("[document.documentElement.scrollWidth, innerWidth]").await;
        assert_eq!(wide[0], wide[1], "no sideways scrolling");
        page.close().await;
    }
}

/// Texts whose contrast with what is behind them is below WCAG's AA (4.5, or 3 for large letters).
const CONTRAST: &str = "{
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
    const light = (rgb) => rgb.reduce((sum, v, i) => {
        const c = v / 255;
        return sum + [0.2126, 0.7152, 0.0722][i] * (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    }, 0);
    const behind = (element) => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) {
            layers.unshift(rgba(getComputedStyle(e).backgroundColor));
            if (e.matches('dialog')) break;
        }
        return layers.reduce((under, layer) => over(layer, under), [255, 255, 255]);
    };
    const open = document.querySelector('dialog[open]') || document.body;
    const bad = [];
    for (const element of open.querySelectorAll('*')) {
        const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || (element.matches('input[type=text]') && element.value);
        const style = getComputedStyle(element);
        if (!own || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || element.closest(':disabled, .sr, .skip, [hidden], noscript, dialog:not([open])')) continue;
        const ground = behind(element);
        const ink = over(rgba(style.color), ground);
        const [a, b] = [light(ink), light(ground)].sort((p, q) => q - p);
        const ratio = (a + 0.05) / (b + 0.05), large = parseFloat(style.fontSize) >= 24;
        if (ratio < (large ? 3 : 4.5)) bad.push(`${element.tagName} ${element.id} ${element.className} ${element.textContent.trim().slice(0, 20)}: ${ratio.toFixed(2)}`);
    }
    return bad;
}";

/// A server with a key: the page asks for it and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_the_key() {
    let Some((_server, page)) = opened(&["--api-key", "open-sesame"], true).await else { return };
    page.until("document.querySelector('#key-dialog').open").await;
    page.type_text("wrong\n").await;
    page.until(
        "document.querySelector('#key-dialog').open && document.querySelector('#api-key').value === ''",
    )
    .await;
    page.type_text("open-sesame\n").await;
    page.until("document.querySelector('#connection').dataset.phase === 'online'").await;
    page.drop_photos(&[photo("cat.jpg")]).await;
    page.find("cat").await;
    page.settled().await;
    page.until("document.querySelector('.object .info').textContent.includes('%')").await;
    page.close().await;
}

/// Drop to embedding and click to drawn mask, measured in the page: `SAMCLIP_LATENCY=1 cargo test --release latency -- --nocapture`.
#[tokio::test(flavor = "multi_thread")]
async fn latency() {
    if std::env::var_os("SAMCLIP_LATENCY").is_none() {
        println!("skipped: SAMCLIP_LATENCY is not set (it needs a quiet machine)");
        return;
    }
    let Some((_server, page)) = opened(&[], true).await else { return };
    page.press("#preview").await;
    page.drop_photos(&[photo("cat.jpg")]).await;
    page.until("(await import('/assets/store.js')).current().key").await;
    let mut embedded = Vec::new();
    for _ in 0..9 {
        embedded.push(page.js(DROP_THOUSAND).await.as_f64().expect("milliseconds"));
    }
    embedded.sort_by(f64::total_cmp);
    println!(
        "1000 px photo dropped to embedding there, 9 photos: median {:.1} ms, slowest {:.1} ms",
        embedded[4], embedded[8]
    );
    page.js(STOPWATCH).await;
    for i in 0..60 {
        page.keys(&["n"]).await;
        page.click([60 + (i * 37) % 880, 40 + (i * 53) % 560], Hand::Left).await;
        page.until(&format!("window.times.length === {}", i + 1)).await;
        page.keys(&["Delete"]).await;
    }
    let times = page.js("window.times").await;
    let mut times: Vec<f64> = times.as_array().expect("times").iter().filter_map(Value::as_f64).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    println!("click to drawn mask, {} clicks: median {:.1} ms, p95 {:.1} ms", times.len(), at(0.5), at(0.95));
    page.close().await;
}

/// Drops a new JPEG of 1000 x 667 pixels; milliseconds until the server has its embedding.
const DROP_THOUSAND: &str = "{
    const store = await import('/assets/store.js');
    const photo = store.current();
    const canvas = new OffscreenCanvas(1000, 667), context = canvas.getContext('2d');
    context.drawImage(await createImageBitmap(photo.blob), 0, 0, 1000, 667);
    context.fillStyle = `rgb(${Math.random() * 255} 0 0)`; // another photo every time
    context.fillRect(0, 0, 8, 8);
    const blob = await canvas.convertToBlob({ type: 'image/jpeg', quality: 0.9 });
    const transfer = new DataTransfer();
    transfer.items.add(new File([blob], 'thousand.jpg', { type: 'image/jpeg' }));
    const began = performance.now();
    for (const kind of ['dragenter', 'dragover', 'drop']) {
        document.querySelector('main').dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
    }
    while (store.current() === photo || !store.current().key) await new Promise((resolve) => setTimeout(resolve, 2));
    return performance.now() - began;
}";

/// Writes the milliseconds from a button going up to the frame that shows the new mask into `window.times`.
const STOPWATCH: &str = "{
    const { on } = await import('/assets/events.js');
    const store = await import('/assets/store.js');
    let start = 0;
    window.times = [];
    document.querySelector('#stage').addEventListener('pointerup', () => { start = performance.now(); }, true);
    const { picture } = await import('/assets/masks.js');
    on('document redraw', () => {
        const photo = store.current(), object = store.activeObject(photo), mask = object && store.maskOf(photo, object);
        if (!start || !mask || !picture(`${photo.id}/${object.id}`, mask, object.colour, true)) return;
        const began = start;
        start = 0;
        requestAnimationFrame(() => setTimeout(() => window.times.push(performance.now() - began)));
    });
}";

/// The pictures of docs/guides/page.md: `SAMCLIP_SCREENSHOTS=../docs/guides/img cargo test --release screenshots`.
#[tokio::test(flavor = "multi_thread")]
async fn screenshots() {
    let Some(folder) = std::env::var_os("SAMCLIP_SCREENSHOTS").map(PathBuf::from) else {
        println!("skipped: SAMCLIP_SCREENSHOTS names no folder");
        return;
    };
    if skip_without_browser() {
        return;
    }
    let mut server = Server::start(&[]);
    let page = Browser::open(&server.url(), [1280, 800], true).await;
    let shot = async |name: &str| {
        page.js("document.activeElement.blur()").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        page.screenshot(&folder.join(name)).await;
    };
    page.until("document.querySelector('#connection').dataset.phase === 'online'").await;
    shot("start.jpg").await;
    page.drop_photos(&["cat.jpg", "coffee.jpg", "rocket.jpg", "astronaut.jpg"].map(photo)).await;
    page.press("#photo-list li:nth-child(2) button").await;
    page.until("document.title.startsWith('cat')").await;
    page.find("cat").await;
    page.settled().await;
    page.keys(&["n"]).await;
    page.drag([130, 82], [212, 158]).await;
    page.settled().await;
    page.keys(&["F2"]).await;
    page.type_text("eye\n").await;
    shot("objects.jpg").await;
    page.keys(&["m"]).await;
    page.until("document.querySelector('#mode-bar .ramp')").await;
    shot("heat_map.jpg").await;
    page.keys(&["Escape", "PageDown"]).await;
    page.until("document.title.startsWith('coffee')").await;
    page.scheme(false).await;
    page.keys(&["a"]).await;
    page.until("document.querySelector('#mode-bar input')").await;
    page.hover([300, 200]).await;
    shot("everything.jpg").await;
    page.keys(&["Escape", "PageUp"]).await;
    page.until("document.title.startsWith('cat')").await;
    server.kill();
    page.keys(&["n"]).await;
    page.click([60, 60], Hand::Left).await;
    page.until("document.querySelectorAll('.object .waiting').length === 1").await;
    page.until("document.querySelector('#connection').dataset.phase === 'offline'").await;
    shot("server_gone.jpg").await;
    server.restart();
    page.settled().await;
    page.press("#preview").await;
    page.keys(&["Delete", "1"]).await;
    page.resize([390, 780]).await;
    shot("phone.jpg").await;
    page.close().await;
}
