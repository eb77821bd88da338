//! Choice of the images to remove: a pure function of the existing images, their use, the disk and the time
//! (Kubernetes, Garbage Collection, "Garbage collection of unused containers and images").

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Settings of image garbage collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Usage of the disk in percent from which images are removed; 100 is never.
    pub high_percent: u8,
    /// Usage of the disk in percent down to which images are removed; less than the other.
    pub low_percent: u8,
    /// Time for which an image stays after the agent first saw it, however full the disk is.
    pub min_age: Duration,
    /// Time without use after which an image is removed, however empty the disk is.
    pub max_age: Option<Duration>,
}

impl Policy {
    /// Returns `true` if no image is ever removed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.high_percent == 100 && self.max_age.is_none()
    }

    /// Returns the number of bytes to free; `begun` once that has begun, until it is enough.
    pub(super) fn excess(&self, usage: ImageFsUsage, begun: bool) -> u64 {
        let is_high = self.high_percent < 100 && usage.used_percent() >= self.high_percent;
        if !is_high && !begun {
            return 0;
        }
        let wanted =
            (usage.capacity / 100).saturating_mul(100_u8.saturating_sub(self.low_percent).into());
        wanted.saturating_sub(usage.available)
    }
}

/// Usage of the file system of images, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageFsUsage {
    pub(super) capacity: u64,
    pub(super) available: u64,
}

impl ImageFsUsage {
    /// Returns the usage in percent, rounded up as the kubelet does; 0 for a file system without a size.
    pub(super) fn used_percent(self) -> u8 {
        let free = (u128::from(self.available) * 100)
            .checked_div(u128::from(self.capacity))
            .unwrap_or(100);
        u8::try_from(free).map_or(0, |free| 100u8.saturating_sub(free))
    }
}

/// Image that the runtime has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedImage {
    pub(super) id: String,
    /// Name for people.
    pub(super) name: String,
    /// In bytes.
    pub(super) size: u64,
    /// It is in use, named by a Pod, or pinned.
    pub(super) kept: bool,
}

/// History of one image for as long as it exists.
#[derive(Debug, Clone, Copy)]
struct ImageRecord {
    /// Time when it was first seen.
    seen: Instant,
    /// It existed in the first round, so that it may be of any age.
    was_there: bool,
    last_used: Option<Instant>,
}

/// History of all images since the agent started.
#[derive(Debug, Default)]
pub(super) struct ImageHistory {
    images: BTreeMap<String, ImageRecord>,
    has_recorded: bool,
}

impl ImageHistory {
    /// Records the existing images, and which of them are in use.
    pub(super) fn record(&mut self, images: &[ListedImage], now: Instant) {
        let was_there = !std::mem::replace(&mut self.has_recorded, true);
        self.images
            .retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let known = self.images.entry(image.id.clone()).or_insert(ImageRecord {
                seen: now,
                was_there,
                last_used: None,
            });
            if image.kept {
                known.last_used = Some(now);
            }
        }
    }
}

/// Returns the images to remove, in order: those that were not used for too long, then, to free `excess` bytes,
/// those that were used least recently. Images without a history stay.
pub(super) fn plan<'a>(
    policy: &Policy,
    images: &'a [ListedImage],
    history: &ImageHistory,
    excess: u64,
    now: Instant,
) -> Vec<&'a ListedImage> {
    let unused = images.iter().filter(|image| !image.kept);
    let known = unused.filter_map(|image| Some((image, *history.images.get(&image.id)?)));
    let mut known: Vec<_> = known.collect();
    known.sort_by_key(|(image, known)| {
        let seen = (!known.was_there).then_some(known.seen);
        (known.last_used, seen, image.id.as_str())
    });
    let since = |then| now.saturating_duration_since(then);
    let (old, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|(_, known)| {
        let unused_for = since(known.last_used.unwrap_or(known.seen));
        policy.max_age.is_some_and(|max| unused_for > max)
    });
    let mut plan: Vec<_> = old.into_iter().map(|(image, _)| image).collect();
    let mut freed: u64 = plan
        .iter()
        .map(|image| image.size)
        .fold(0, u64::saturating_add);
    for (image, known) in others {
        let may_go = known.was_there || since(known.seen) >= policy.min_age;
        if freed < excess && may_go {
            freed = freed.saturating_add(image.size);
            plan.push(image);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn policy() -> Policy {
        Policy {
            high_percent: 85,
            low_percent: 80,
            min_age: 2 * MINUTE,
            max_age: None,
        }
    }

    #[test]
    fn room_is_made_from_the_high_threshold_down_to_the_low_one() {
        for (available, begun, expected) in [
            (1000, false, 0),
            (160, false, 0),
            // 85 %, once a percent that has begun counts.
            (159, false, 41),
            (150, false, 50),
            (0, false, 200),
            // Once begun, it goes on below the high threshold.
            (170, true, 30),
            (200, true, 0),
            (900, true, 0),
            // As a file system may count what is kept for root.
            (2000, false, 0),
        ] {
            let usage = ImageFsUsage {
                capacity: 1000,
                available,
            };
            let excess = policy().excess(usage, begun);
            assert_eq!(excess, expected, "{available} {begun}");
        }
        let nothing = ImageFsUsage {
            capacity: 0,
            available: 0,
        };
        assert_eq!(policy().excess(nothing, false), 0);
        let never = Policy {
            high_percent: 100,
            ..policy()
        };
        let full = ImageFsUsage {
            capacity: 1000,
            available: 0,
        };
        assert_eq!(never.excess(full, false), 0);
    }

    #[test]
    fn nothing_ever_goes_without_thresholds_and_without_an_age() {
        let never = Policy {
            high_percent: 100,
            ..policy()
        };
        let old = Policy {
            max_age: Some(MINUTE),
            ..never
        };
        assert!(never.is_off());
        assert!(!old.is_off());
        assert!(!policy().is_off());
    }

    /// Images by id with their sizes in bytes; those in `kept` are kept.
    fn images(all: &[(&str, u64)], kept: &[&str]) -> Vec<ListedImage> {
        let image = |(id, size): &(&str, u64)| ListedImage {
            id: (*id).to_owned(),
            name: (*id).to_owned(),
            size: *size,
            kept: kept.contains(id),
        };
        all.iter().map(image).collect()
    }

    const ALL: [(&str, u64); 4] = [("a", 10), ("b", 20), ("c", 30), ("d", 40)];

    /// Images of [`ALL`] that are removed after these rounds: the minute of each, and the images kept then.
    fn planned(policy: &Policy, rounds: &[(u32, &[&str])], excess: u64) -> Vec<String> {
        let start = Instant::now();
        let mut history = ImageHistory::default();
        let mut last = (start, vec![]);
        for (minute, kept) in rounds {
            last = (start + *minute * MINUTE, images(&ALL, kept));
            history.record(&last.1, last.0);
        }
        let (now, images) = last;
        let plan = plan(policy, &images, &history, excess, now);
        plan.iter().map(|image| image.id.clone()).collect()
    }

    #[test]
    fn the_image_used_longest_ago_goes_first_and_no_more_than_needed() {
        for (rounds, excess, expected) in [
            // Nothing has to go.
            (&[(0, &["a"][..])][..], 0, &[][..]),
            // Never used before used before used later.
            (&[(0, &["b"]), (5, &["a"]), (10, &[])], 1, &["c"]),
            (&[(0, &["b"]), (5, &["a"]), (10, &[])], 71, &["c", "d", "b"]),
            (
                &[(0, &["b"]), (5, &["a"]), (10, &[])],
                1000,
                &["c", "d", "b", "a"],
            ),
            // What is kept now stays, however much is needed.
            (&[(0, &["a", "b", "c", "d"])], 1000, &[]),
            (&[(0, &[]), (5, &["a", "c"])], 1000, &["b", "d"]),
        ] {
            assert_eq!(
                planned(&policy(), rounds, excess),
                expected,
                "{rounds:?} {excess}"
            );
        }
    }

    #[test]
    fn an_image_that_just_came_stays_and_one_that_was_there_at_the_start_need_not() {
        let start = Instant::now();
        let mut history = ImageHistory::default();
        history.record(&images(&ALL[..1], &[]), start);
        let all = images(&ALL[..2], &[]);
        history.record(&all, start + 5 * MINUTE);
        for (minutes, expected) in [(5, &["a"][..]), (6, &["a"]), (7, &["a", "b"])] {
            let now = start + minutes * MINUTE;
            let plan = plan(&policy(), &all, &history, 1000, now);
            let ids: Vec<_> = plan.iter().map(|image| image.id.as_str()).collect();
            assert_eq!(ids, expected, "after {minutes} minutes");
        }
    }

    #[test]
    fn an_image_that_went_and_came_back_is_new() {
        let start = Instant::now();
        let mut history = ImageHistory::default();
        let all = images(&ALL[..1], &[]);
        history.record(&all, start);
        history.record(&[], start + MINUTE);
        history.record(&all, start + 2 * MINUTE);
        assert!(plan(&policy(), &all, &history, 1, start + 3 * MINUTE).is_empty());
    }

    #[test]
    fn what_was_not_used_for_too_long_goes_with_room_to_spare() {
        let policy = Policy {
            max_age: Some(30 * MINUTE),
            ..policy()
        };
        for (rounds, excess, expected) in [
            (&[(0, &["a"][..]), (30, &["b"])][..], 0, &[][..]),
            (&[(0, &["a"]), (31, &["b"])], 0, &["c", "d", "a"]),
            (&[(0, &["a"]), (5, &["a"]), (31, &["b"])], 0, &["c", "d"]),
            // It counts as freed.
            (&[(0, &["a"]), (5, &["a"]), (31, &["b"])], 70, &["c", "d"]),
            (
                &[(0, &["a"]), (5, &["a"]), (31, &["b"])],
                71,
                &["c", "d", "a"],
            ),
            (&[(0, &[]), (31, &["a", "b", "c", "d"])], 71, &[]),
        ] {
            assert_eq!(
                planned(&policy, rounds, excess),
                expected,
                "{rounds:?} {excess}"
            );
        }
    }
}
