//! The pipelines of the field's data sets on miniatures of them, laid out as the originals; and lists that are checked.

use crate::space::{Ended, Space};
use std::path::{Path, PathBuf};

fn pipeline(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(name).to_str().unwrap().to_string()
}

/// A picture unlike all others with another number, whatever the name says of its format.
fn picture(path: &Path, number: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let [a, b, c, _] = number.to_le_bytes();
    let picture = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([a ^ x as u8, b ^ y as u8, c]));
    picture.save_with_format(path, image::ImageFormat::Png).unwrap();
}

fn write(path: PathBuf, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn coco(root: &Path) {
    for (part, numbers) in [("train2014", 0..30u32), ("val2014", 30..45)] {
        let name = |n: u32| format!("COCO_{part}_{n:012}.jpg");
        let (mut images, mut annotations) = (vec![], vec![]);
        for n in numbers {
            picture(&root.join(part).join(name(n)), n);
            images.push(serde_json::json!({"id": n, "file_name": name(n), "height": 16, "width": 16}));
            annotations
                .push(serde_json::json!({"image_id": n, "category_id": 1 + n % 3, "bbox": [0, 0, 1, 1], "id": n}));
        }
        let categories =
            [(1, "person"), (2, "bicycle"), (3, "car")].map(|(id, name)| serde_json::json!({"id": id, "name": name}));
        let text =
            serde_json::json!({"info": {}, "images": images, "annotations": annotations, "categories": categories});
        write(root.join(format!("annotations/instances_{part}.json")), text.to_string());
    }
}

fn cifar(root: &Path, folder: &str, batches: &[&str], labels: usize, classes: u32, pictures: u32) {
    let mut number = 0u32;
    for batch in batches {
        let mut bytes = vec![];
        for _ in 0..pictures {
            bytes.extend(vec![(number % classes) as u8; labels]);
            bytes.extend((0..3072u32).map(|i| (i * 5 + number * 11) as u8 ^ (number >> 4) as u8));
            number += 1;
        }
        write(root.join(folder).join(format!("{batch}.bin")), bytes);
    }
}

fn nuswide(root: &Path) {
    let mut list = String::new();
    for n in 0..60u32 {
        list += &format!("actor\\{n:04}_7.jpg\r\n");
        picture(&root.join(format!("Flickr/actor/{n:04}_7.jpg")), n);
    }
    write(root.join("ImageList/Imagelist.txt"), list);
    for concept in 0..81u32 {
        let label = |n: u32| if (n + concept).is_multiple_of(2 + concept / 9) { "1\n" } else { "0\n" };
        let labels: String = (0..60).map(label).collect();
        write(root.join(format!("Groundtruth/AllLabels/Labels_concept{concept:02}.txt")), labels);
    }
}

fn mirflickr(root: &Path) {
    (1..=50).for_each(|n| picture(&root.join(format!("mirflickr/im{n}.jpg")), n));
    for (name, step) in [("sky", 1), ("sky_r1", 3), ("sea", 2)] {
        let numbers: String = (1..=50).step_by(step).map(|n| format!("{n}\n")).collect();
        write(root.join(format!("mirflickr25k_annotations_v080/{name}.txt")), numbers);
    }
    write(root.join("mirflickr25k_annotations_v080/README.txt"), "no numbers");
}

fn voc(root: &Path) {
    let root = root.join("VOCdevkit/VOC2012");
    let mut list = String::new();
    for n in 0..40u32 {
        let class = ["person", "dog", "tvmonitor"][n as usize % 3];
        let object = format!("<object><name>{class}</name><difficult>0</difficult></object>");
        write(root.join(format!("Annotations/2008_{n:06}.xml")), format!("<annotation>{object}</annotation>"));
        picture(&root.join(format!("JPEGImages/2008_{n:06}.jpg")), n);
        list += &format!("2008_{n:06}\n");
    }
    write(root.join("ImageSets/Main/trainval.txt"), list);
}

fn imagenet(root: &Path) {
    let text = std::fs::read_to_string(pipeline("imagenet100.toml")).unwrap();
    let classes: Vec<&str> = text.split('"').filter(|word| word.len() == 9 && word.starts_with('n')).collect();
    assert_eq!(classes.len(), 100);
    for (number, class) in (0u32..).zip(classes) {
        for (part, count) in [("train", 3), ("val", 1)] {
            (0..count).for_each(|i| {
                let name = format!("{part}/{class}/{class}_{i}.JPEG");
                picture(&root.join(name), number * 8 + i + 4 * u32::from(part == "val"));
            });
        }
    }
}

/// Runs the lists of a shipped pipeline on a miniature; returns the numbers of training images, queries and database
/// images of its task of that name.
fn lists(name: &str, make: impl Fn(&Path), task: &str, sets: &[&str]) -> [usize; 3] {
    let space = Space::empty();
    make(&space.path("data"));
    let file = pipeline(name);
    let root = format!("vars.root={}", space.path("data").display());
    let mut arguments = vec!["--set", root.as_str()];
    let sets: Vec<String> = sets.iter().map(|set| format!("lists.images.dataset.{set}")).collect();
    sets.iter().for_each(|set| arguments.extend(["--set", set.as_str()]));
    let dry = space.hashpipe(&[&["run", "--dry-run", &file], &arguments[..]].concat()).ok();
    assert!(dry.stdout.contains(task), "{name}: {}", dry.stdout);
    assert!(!dry.stdout.contains("lists.images needs these files"), "{name}: {}", dry.stdout);
    let (cache, output) = (space.path("cache"), space.path("output"));
    let places = ["--cache", cache.to_str().unwrap(), "--output", output.to_str().unwrap(), "--only", "lists.images"];
    let ended = space.hashpipe(&[&["run", &file, "--json"], &arguments[..], &places].concat()).ok();
    assert!(ended.tasks("done").contains(&task.to_string()), "{name}: {}", ended.stdout);
    let checked = space.hashpipe(&[&["lists", "check", &file, "--json"], &arguments[..]].concat()).ok();
    assert!(checked.json().iter().any(|line| line["stage"] == task), "{}", checked.stdout);
    let key = space.last_key(name.trim_end_matches(".toml"), task).unwrap();
    let record =
        std::fs::read_to_string(space.path("cache/v2/actions").join(&key[..2]).join(format!("{key}.json"))).unwrap();
    let record: serde_json::Value = serde_json::from_str(record.lines().next().unwrap()).unwrap();
    ["train", "query", "database"].map(|list| {
        let digest = record["outputs"][list]["digest"].as_str().unwrap();
        let path = space.path("cache/v2/objects").join(&digest[..2]).join(digest);
        hashpipe::dataset::List::read(&path).unwrap().len()
    })
}

#[test]
fn coco_from_its_annotations() {
    let found = lists("coco_annotations.toml", coco, "lists.images", &["query=5", "train=10"]);
    assert_eq!(found, [10, 5, 30]);
}

#[test]
fn cifar_from_its_batches() {
    let ten = |root: &Path| {
        let batches = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
        cifar(root, "cifar-10-batches-bin", &batches, 1, 10, 20);
    };
    let per_class = ["query_per_class=2", "train_per_class=4"];
    for (split, database) in [("cifar10", 60), ("cifar10-1", 100), ("cifar10-2", 40)] {
        let task = format!("lists.images@dataset.split={split}");
        assert_eq!(lists("cifar10_splits.toml", ten, &task, &per_class), [40, 20, database], "{split}");
    }
    let hundred = |root: &Path| cifar(root, "cifar-100-binary", &["train", "test"], 2, 100, 300);
    let found = lists("cifar100.toml", hundred, "lists.images", &["query_per_class=1", "train_per_class=2"]);
    assert_eq!(found, [200, 100, 300]);
}

#[test]
fn nuswide_from_its_text_files() {
    let found = lists("nuswide21.toml", nuswide, "lists.images", &["query=1", "train=1"]);
    assert_eq!(found[..2], [21, 21]);
    let found = lists("nuswide81.toml", nuswide, "lists.images", &["query=5", "train=10"]);
    assert_eq!(found[..2], [10, 5]);
}

#[test]
fn mirflickr_voc_and_imagenet_from_their_own() {
    let few = ["query=5", "train=10"];
    let images = [&few[..], &["images=50"]].concat();
    assert_eq!(lists("mirflickr.toml", mirflickr, "lists.images", &images), [10, 5, 35]);
    assert_eq!(lists("voc2012.toml", voc, "lists.images", &few), [10, 5, 25]);
    assert_eq!(lists("imagenet100.toml", imagenet, "lists.images", &["train_per_class=2"]), [200, 100, 300]);
}

#[test]
fn a_table_of_ones_own() {
    let make = |root: &Path| {
        let mut text = "path,labels,split\n".to_string();
        for n in 0..12u32 {
            let split = ["train;database", "query", "database"][n as usize % 3];
            text += &format!("\"my pictures/{n}, x.png\",{},{split}\n", ["sea", "sea;sky"][n as usize % 2]);
            picture(&root.join(format!("my pictures/{n}, x.png")), n);
        }
        write(root.join("pictures.csv"), text);
    };
    assert_eq!(lists("table.toml", make, "lists.images", &[]), [4, 4, 8]);
}

#[test]
fn lists_are_checked_by_themselves() {
    let space = Space::empty();
    space.write("l.txt", "./data/a.jpg 1 0\n./data/b.jpg 0 0\n./data/b.jpg 0 2\nc.jpg 1 0\n");
    let check = |more: &[&str]| -> Ended { space.hashpipe(&[&["lists", "check", "l.txt"], more].concat()) };
    let wrong = check(&["--strip", "./data/"]);
    assert_eq!(wrong.code, 2);
    for expected in ["l.txt:3:16", "label `2` is neither 0 nor 1", "`c.jpg` does not begin with `./data/`", "2 errors"]
    {
        assert!(wrong.stderr.contains(expected), "{expected} in\n{}", wrong.stderr);
    }
    space.write("l.txt", "./data/a.jpg 1 0\n./data/b.jpg 0 0\n");
    let right = check(&["--strip", "./data/", "--json"]).ok();
    let told = &right.json()[0];
    assert_eq!((&told["images"], &told["unlabelled"], &told["classes"]["class_0"]), (&2.into(), &1.into(), &1.into()));
    assert!(check(&["--strip", "./data/", "--root", "."]).stderr.contains("image `a.jpg` is missing"));
    assert!(check(&["--preset", "coca"]).stderr.contains("did you mean `coco`?"));
    assert!(space.hashpipe(&["lists", "presets"]).ok().stdout.contains("nuswide_21"));
}

#[test]
fn what_can_be_fetched_is_listed() {
    let space = Space::empty();
    let all = space.hashpipe(&["fetch", "--list"]).ok().stdout;
    assert!(all.contains("train2014.zip") && all.contains("By hand: "), "{all}");
    let dry =
        space.hashpipe(&["fetch", "coco2014", "cifar10", "--to", "x", "-n", "--json", "--mirror", "http://m/d/"]).ok();
    let lines = dry.json();
    assert_eq!((lines.len(), lines[0]["url"].as_str().unwrap()), (4, "http://m/d/annotations_trainval2014.zip"));
    assert!(!space.path("x").exists());
    assert!(space.hashpipe(&["fetch", "coco", "--to", "x"]).stderr.contains("there is no data set `coco` to fetch"));
    let form = space.hashpipe(&["fetch", "imagenet", "--to", "x"]);
    assert!(form.code == 2 && form.stderr.contains("registered users only"), "{}", form.stderr);
}
