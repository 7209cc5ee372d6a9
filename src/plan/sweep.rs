//! A stage with swept parameters becomes one task per point; what depends on it follows it point by point.

use super::check::Axis;
use super::target::{self, ALL, Text};
use super::{Axes, TaskId, point_text};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// A point of a stage's sweep: a table with single values, and the tasks its references mean.
pub(super) struct Point<'a> {
    pub(super) axes: Axes,
    pub(super) table: Cow<'a, Value>,
    pub(super) inputs: BTreeMap<String, TaskId>,
}

/// The tasks planned so far, by their stage: number and axes, as far as joining needs them.
pub(super) type Known = HashMap<String, Vec<(TaskId, Axes)>>;

/// Why a stage could not be unrolled: the key path it is about, and the message.
pub(super) struct Fault {
    pub(super) path: Vec<String>,
    pub(super) message: String,
}

/// Every point of a stage: the product of its own axes, joined with the axes of what it refers to.
///
/// One name is one axis: where two inputs were swept over `bits`, or the stage itself is, only equal values go
/// together. An axis that neither the stage nor its inputs have does not multiply it.
pub(super) fn unroll<'a>(
    table: &'a Value,
    axes: &[Axis],
    by: &[Vec<String>],
    refs: &[Vec<String>],
    known: &Known,
) -> Result<Vec<Point<'a>>, Fault> {
    let mut points = vec![];
    for own in product(axes) {
        let mut table = Cow::Borrowed(table);
        for (axis, value) in axes.iter().zip(&own) {
            put(table.to_mut(), &axis.path, value.clone());
        }
        let start =
            Point { axes: axes.iter().map(|a| a.name.clone()).zip(own).collect(), table, inputs: BTreeMap::new() };
        for mut point in join(start, refs, known)? {
            for path in by {
                choose(&mut point, path)?;
            }
            points.push(point);
        }
    }
    Ok(points)
}

/// All combinations of the axes' values, the last axis running fastest.
fn product(axes: &[Axis]) -> Vec<Vec<Value>> {
    axes.iter().fold(vec![vec![]], |rows, axis| {
        let extend = |row: Vec<Value>| axis.values.iter().map(move |value| [row.clone(), vec![value.clone()]].concat());
        rows.into_iter().flat_map(extend).collect()
    })
}

/// Splits a point by the tasks its references may mean.
fn join<'a>(start: Point<'a>, refs: &[Vec<String>], known: &Known) -> Result<Vec<Point<'a>>, Fault> {
    let mut points = vec![start];
    for path in refs {
        let mut next = vec![];
        for point in points {
            let Some(Value::String(text)) = get(&point.table, path) else { continue };
            let Text::Output { stage, select, .. } = target::parse(text) else {
                next.push(point);
                continue;
            };
            let fitting = fitting(&point, &stage, &select, known);
            let all: Vec<&str> =
                select.iter().filter(|(_, value)| value == ALL).map(|(axis, _)| axis.as_str()).collect();
            if fitting.is_empty() {
                let at = point.axes.iter().map(|(a, v)| point_text(a, v)).collect::<Vec<_>>().join(",");
                let at = if at.is_empty() { String::new() } else { format!(" that goes with {at}") };
                let message = format!("`{text}` means no task of `{stage}`{at}");
                return Err(Fault { path: path.clone(), message });
            }
            if !all.is_empty() {
                next.extend(gather(&point, path, &all, fitting)?);
                continue;
            }
            for Fit { task, axes, .. } in fitting {
                let mut inputs = point.inputs.clone();
                inputs.insert(text.clone(), task);
                next.push(Point { axes, table: point.table.clone(), inputs });
            }
        }
        points = next;
    }
    Ok(points)
}

/// A task that a reference may mean at a point.
struct Fit<'k> {
    task: TaskId,
    /// The axes that the point has after taking it.
    axes: Axes,
    /// Its own.
    their: &'k Axes,
}

/// Takes all tasks of some axes at once: what agrees in the others makes one point. In the place of the reference comes a
/// table of references to single tasks, by their values on those axes, so that each is found and keyed as any other.
fn gather<'a>(point: &Point<'a>, path: &[String], all: &[&str], fitting: Vec<Fit>) -> Result<Vec<Point<'a>>, Fault> {
    let Some(Value::String(text)) = get(&point.table, path) else { return Ok(vec![]) };
    let Text::Output { stage, select, port } = target::parse(text) else { return Ok(vec![]) };
    let mut groups: Vec<(Axes, Vec<(TaskId, &Axes)>)> = vec![];
    for Fit { task, axes, their } in fitting {
        match groups.iter_mut().find(|(known, _)| *known == axes) {
            Some((_, tasks)) => tasks.push((task, their)),
            None => groups.push((axes, vec![(task, their)])),
        }
    }
    let taken = groups.into_iter().map(|(axes, tasks)| {
        let (mut table, mut inputs, mut points) = (point.table.clone(), point.inputs.clone(), Map::new());
        for (task, their) in tasks {
            let at = |axis: &str| their.get(axis).map_or(String::new(), |value| point_text(axis, value));
            let picked: Vec<String> = select.iter().map(|(axis, _)| at(axis)).collect();
            let single = format!("{stage}@{}/{port}", picked.join(","));
            let name = all.iter().map(|axis| at(axis)).collect::<Vec<_>>().join(",");
            inputs.insert(single.clone(), task);
            if points.insert(name.clone(), single.into()).is_some() {
                let message = format!("`{text}` means two tasks of `{stage}` that are both called {name}");
                return Err(Fault { path: path.to_vec(), message });
            }
        }
        put(table.to_mut(), path, Value::Object(points));
        Ok(Point { axes, table, inputs })
    });
    taken.collect()
}

/// The tasks of `stage` that agree with the point.
fn fitting<'k>(point: &Point, stage: &str, select: &[(String, String)], known: &'k Known) -> Vec<Fit<'k>> {
    let tasks = known.get(stage).into_iter().flatten();
    tasks
        .filter_map(|(id, their)| {
            let selected = |axis: &str| select.iter().any(|(name, _)| name == axis);
            let picked = select.iter().all(|(axis, value)| {
                their.get(axis).is_some_and(|v| value == ALL || point_text(axis, v) == format!("{axis}={value}"))
            });
            let mut axes = point.axes.clone();
            let agrees = their
                .iter()
                .filter(|(axis, _)| !selected(axis))
                .all(|(axis, value)| axes.entry(axis.clone()).or_insert_with(|| value.clone()) == value);
            (picked && agrees).then_some(Fit { task: *id, axes, their })
        })
        .collect()
}

/// Replaces `{ by = "bits", 16 = 0, .. }` by the value for the point.
fn choose(point: &mut Point, path: &[String]) -> Result<(), Fault> {
    let Some(Value::Object(map)) = get(&point.table, path) else { return Ok(()) };
    let fault = |message: String| Fault { path: path.to_vec(), message };
    let axis = map["by"].as_str().unwrap_or_default();
    // A parameter of its own that has one value is a sweep of one point, as after `--set train.a.bits=64`.
    let own: Vec<String> = axis.split('.').map(str::to_string).collect();
    let single = |value: &&Value| !value.is_array() && !value.is_object() && !value.is_null();
    let Some(value) = point.axes.get(axis).or_else(|| get(&point.table, &own).filter(single)) else {
        let known: Vec<&str> = point.axes.keys().map(String::as_str).collect();
        let known =
            if known.is_empty() { "is not swept".into() } else { format!("is swept over {}", known.join(", ")) };
        return Err(fault(format!(
            "`by = \"{axis}\"`, but this stage {known} (a list makes an axis, even of one value: `{axis} = [..]`)"
        )));
    };
    let name = point_text(axis, value).split_off(axis.len() + 1);
    let chosen = map.get(&name).or_else(|| map.get("default")).cloned();
    let Some(chosen) = chosen else {
        return Err(fault(format!("`{}` has no value for {axis}={name}, and no `default`", path.join("."))));
    };
    put(point.table.to_mut(), path, chosen);
    Ok(())
}

fn get<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        value => value.get(step),
    })
}

fn put(value: &mut Value, path: &[String], new: Value) {
    let Some((first, rest)) = path.split_first() else {
        *value = new;
        return;
    };
    let next = match value {
        Value::Array(items) => first.parse::<usize>().ok().and_then(|i| items.get_mut(i)),
        Value::Object(map) => map.get_mut(first),
        _ => None,
    };
    if let Some(next) = next {
        put(next, rest, new);
    }
}
