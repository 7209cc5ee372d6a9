//! Images on their way into a network: numbers made on the host, or bytes that a GPU makes numbers of.

use super::tensor_error;
use crate::dataset::{Augment, Batch, Examples};
use crate::error::Result;
use candle_core::{Device, Tensor};
use std::ops::Range;

/// The images of a list as a network on a device takes them.
pub(super) struct Feed<'a> {
    examples: &'a dyn Examples,
    device: Device,
    #[cfg(feature = "cuda")]
    on_gpu: Option<(&'a dyn crate::dataset::Raw, super::cuda::Images)>,
    /// Whether more images could stay once the work was seen.
    waits: bool,
}

/// One batch, on the device.
pub(super) struct Fed {
    /// Positions in the list, as asked for.
    pub(super) index: Vec<u32>,
    /// `[n, 3, side, side]`, normalised.
    pub(super) xs: Tensor,
}

/// How often all images are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passes {
    /// Once, which is not worth a place in a GPU's memory.
    One,
    /// Again and again, by work of which it may have been seen what it takes of a GPU's memory.
    Many { work_was_seen: bool },
}

impl<'a> Feed<'a> {
    /// Brings images to a GPU that has room for all of them, where that saves something.
    ///
    /// # Errors
    /// Images that cannot be read, and a GPU's memory that cannot be had.
    pub(super) fn open(examples: &'a dyn Examples, device: &Device, passes: Passes) -> Result<Self> {
        let work_was_seen = match passes {
            Passes::One => None,
            Passes::Many { work_was_seen } => Some(work_was_seen),
        };
        #[cfg(feature = "cuda")]
        let on_gpu = match (device, examples.raw()) {
            (Device::Cuda(gpu), Some(raw)) => {
                let room = crate::device::cuda::room(gpu).map_err(tensor_error)?;
                let most = work_was_seen.map_or(0, |was_seen| room.to_keep(was_seen));
                Some((raw, super::cuda::Images::open(raw, examples.side(), gpu, most)?))
            }
            _ => None,
        };
        let waits = work_was_seen == Some(false) && crate::device::is_shared(device);
        Ok(Self {
            examples,
            device: device.clone(),
            #[cfg(feature = "cuda")]
            on_gpu,
            waits,
        })
    }

    /// The given batches in order, made ahead of their use.
    pub(super) fn batches(
        &self,
        order: Vec<Vec<u32>>,
        augment: Option<Augment>,
    ) -> Box<dyn Iterator<Item = Result<Fed>> + '_> {
        #[cfg(feature = "cuda")]
        if let Some((raw, images)) = &self.on_gpu {
            let batches = images.batches(*raw, order, augment);
            return Box::new(batches.map(|batch| batch.map(|(index, xs)| Fed { index, xs })));
        }
        let side = self.examples.side();
        let device = &self.device;
        Box::new(self.examples.batches(order, augment).map(move |batch| {
            let Batch { index, pixels } = batch?;
            let xs = Tensor::from_vec(pixels, (index.len(), 3, side, side), device).map_err(tensor_error)?;
            Ok(Fed { index, xs })
        }))
    }
}

/// The images of a training, for all of its devices.
pub(super) struct Feeds<'a> {
    examples: &'a dyn Examples,
    /// One for each device; none if pixels are made into numbers on the host.
    feeds: Vec<Feed<'a>>,
}

/// One batch of a training.
pub(super) struct Given {
    /// Positions in the list, as asked for.
    pub(super) index: Vec<u32>,
    pub(super) pixels: Pixels,
}

/// A batch's numbers, normalised.
pub(super) enum Pixels {
    /// `[n, 3, side, side]` on the host, row-major.
    Numbers(Vec<f32>),
    /// Consecutive shares `[.., 3, side, side]`, each on the device that is to have it.
    There(Vec<Tensor>),
}

impl<'a> Feeds<'a> {
    /// Brings images to those of the devices that have room for all of them beside the work.
    ///
    /// # Errors
    /// Images that cannot be read, and a GPU's memory that cannot be had.
    pub(super) fn open(examples: &'a dyn Examples, devices: &[Device], work_was_seen: bool) -> Result<Self> {
        let are_cut_there = examples.raw().is_some() && devices.iter().all(Device::is_cuda);
        let devices = if are_cut_there { devices } else { &[] };
        let passes = Passes::Many { work_was_seen };
        let feeds = devices.iter().map(|device| Feed::open(examples, device, passes)).collect::<Result<_>>()?;
        Ok(Self { examples, feeds })
    }

    /// Whether to open them again is worth it once it was seen what the work takes: of a card that others share, images may
    /// only have what is left.
    pub(super) fn wait_for_the_work(&self) -> bool {
        self.feeds.iter().any(|feed| feed.waits)
    }

    /// The given batches in order, made ahead of their use, each in equal shares for these devices.
    pub(super) fn batches(
        &self,
        order: Vec<Vec<u32>>,
        augment: Option<Augment>,
        devices: Range<usize>,
    ) -> Box<dyn Iterator<Item = Result<Given>> + '_> {
        let Some(feeds) = self.feeds.get(devices).filter(|feeds| !feeds.is_empty()) else {
            let given = |Batch { index, pixels }| Given { index, pixels: Pixels::Numbers(pixels) };
            return Box::new(self.examples.batches(order, augment).map(move |batch| batch.map(given)));
        };
        let parts = feeds.len();
        let mut shares: Vec<_> = (feeds.iter().enumerate())
            .map(|(part, feed)| {
                let share = |index: &Vec<u32>| {
                    index[bound(index.len(), part, parts)..bound(index.len(), part + 1, parts)].to_vec()
                };
                feed.batches(order.iter().map(share).collect(), augment)
            })
            .collect();
        Box::new(order.into_iter().map_while(move |index| {
            let fed: Option<Vec<Result<Fed>>> = shares.iter_mut().map(Iterator::next).collect();
            let tensors = fed?.into_iter().map(|fed| fed.map(|fed| fed.xs)).collect::<Result<_>>();
            Some(tensors.map(|tensors| Given { index, pixels: Pixels::There(tensors) }))
        }))
    }
}

/// Where the `part`-th of so many parts begins, of `count` things in order; part `parts` begins at the end. No part is
/// longer than another by more than one.
pub(super) fn bound(count: usize, part: usize, parts: usize) -> usize {
    count * part / parts.max(1)
}

#[cfg(all(test, feature = "cuda"))]
mod cuda_tests {
    use super::*;
    use crate::dataset::Images;
    use crate::error::Error;
    use crate::model::cuda::testing::prepared;
    use crate::model::train_loop::tests::{bytes, files, recipe};
    use crate::model::{Recipe, train_selecting};

    /// The same images without their bytes.
    struct Numbers(Images);

    impl Examples for Numbers {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn classes(&self) -> usize {
            self.0.classes()
        }

        fn labels(&self, index: usize) -> &[u32] {
            self.0.labels(index)
        }

        fn side(&self) -> usize {
            self.0.side()
        }

        fn batches(
            &self,
            order: Vec<Vec<u32>>,
            augment: Option<Augment>,
        ) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
            self.0.batches(order, augment)
        }
    }

    fn trained(recipe: &Recipe, examples: &dyn Examples, devices: &[Device]) -> anyhow::Result<crate::model::Trained> {
        let scratch = tempfile::tempdir()?;
        train_selecting(recipe, examples, &files(scratch.path(), None), devices, &mut |_| Ok(()), None)
    }

    #[test]
    fn a_training_on_bytes_ends_as_one_on_numbers_and_tells_where_it_diverges() {
        let Some(gpu @ Device::Cuda(_)) = crate::device::for_test(0) else { return };
        let (_folder, images) = prepared(40, true);
        let (_folder, partly) = prepared(40, false);
        assert!(images.raw().unwrap().prepared_sizes().is_some() && partly.raw().unwrap().prepared_sizes().is_none());
        let devices: Vec<Device> = std::iter::once(gpu).chain(crate::device::open(Some(1)).ok()).collect();
        for devices in [&devices[..1], &devices[..]] {
            let expected = bytes(&trained(&recipe(), &Numbers(prepared(40, true).1), devices).unwrap());
            assert!(bytes(&trained(&recipe(), &images, devices).unwrap()) == expected, "all images are on the GPU");
            assert!(bytes(&trained(&recipe(), &partly, devices).unwrap()) == expected, "batches are sent");
        }
        let optimizer = serde_json::from_str(r#"{"name": "sgd", "lr": 1e20}"#).unwrap();
        let error = trained(&Recipe { optimizer, ..recipe() }, &images, &devices[..1]).err().unwrap();
        let text = error.downcast::<Error>().unwrap().render("error");
        assert!(text.contains("in epoch 1, ") && text.contains("step"), "{text}");
    }

    #[test]
    fn on_a_shared_card_images_stay_once_it_was_seen_what_the_work_takes() {
        // A card that no other test uses: what this process was given of it holds for all that it does there.
        const SLOT: usize = 2;
        let Some(gpu) = crate::device::for_test(SLOT) else { return };
        let (devices, (_folder, images)) = ([gpu], prepared(40, true));
        for (gib, work_was_seen, are_kept, wait) in
            [(3, false, false, true), (3, true, true, false), (1, false, false, true), (1, true, false, false)]
        {
            crate::device::give(SLOT, gib << 30);
            let feeds = Feeds::open(&images, &devices, work_was_seen).unwrap();
            let kept = feeds.feeds.iter().all(|feed| feed.on_gpu.as_ref().unwrap().1.are_kept());
            assert_eq!((kept, feeds.wait_for_the_work()), (are_kept, wait), "{gib} GiB, {work_was_seen}");
        }
        let expected = bytes(&trained(&recipe(), &Numbers(prepared(40, true).1), &devices).unwrap());
        for gib in [1, 3] {
            crate::device::give(SLOT, gib << 30);
            assert!(bytes(&trained(&recipe(), &images, &devices).unwrap()) == expected, "{gib} GiB");
        }
    }
}
