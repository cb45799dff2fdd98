//! Calls a case's op in the case's form.

use c10d_core::backend::Params;
use c10d_core::buffer::Buffers;
use c10d_core::{Buf, BufMut, Call, OpKind, ProcessGroup, Result, Scope, op};

use crate::case::{Case, Form};
use crate::device::RankDevice;
use crate::executor::block_on;
use crate::raw;
use crate::reference::Tensors;

/// Calls a case's op on this rank, in the case's form. The tensors are on the device, if there is one.
pub(crate) fn issue(
    pg: &ProcessGroup,
    case: &Case,
    mut tensors: Tensors,
    device: Option<&RankDevice>,
) -> Result<Tensors> {
    match (case.form, device) {
        (Form::InPlace, _) => raw::in_place(pg, case, &mut tensors, device).map(|()| tensors),
        (_, None) => apart(pg, case, tensors),
        (_, Some(device)) => device.get_all(apart(pg, case, device.put_all(tensors)?)?),
    }
}

/// Calls the op in one of the forms in which inputs and outputs are separate.
fn apart<T: BufMut + 'static>(pg: &ProcessGroup, case: &Case, mut tensors: Tensors<T>) -> Result<Tensors<T>>
where
    for<'a> &'a T: Buf,
    for<'a> &'a mut T: BufMut,
{
    let Tensors { inputs, outputs } = &mut tensors;
    match case.form {
        Form::Blocking => {
            let first = outputs.as_ptr().addr();
            let (_, got) = go(&Blocking(pg), pg, case, inputs.iter().collect(), outputs.iter_mut().collect())?;
            let sources = sources(case, first, &got);
            arrange(outputs, sources);
        }
        Form::Scoped => {
            let first = outputs.as_ptr().addr();
            let sources = pg.scope(|s| {
                let (inputs, outputs) = (inputs.iter().collect(), outputs.iter_mut().collect());
                go::<&T, &mut T>(&Scoped(s), pg, case, inputs, outputs).map(|(_, got)| sources(case, first, &got))
            })?;
            arrange(outputs, sources);
        }
        Form::Owned => {
            let Tensors { inputs, outputs } = tensors;
            let (inputs, outputs) = go(&Owned(pg), pg, case, inputs, outputs)?;
            return Ok(Tensors { inputs, outputs });
        }
        Form::Awaited | Form::InPlace => {
            let Tensors { inputs, outputs } = tensors;
            let (inputs, outputs) = go(&Awaited(pg), pg, case, inputs, outputs)?;
            return Ok(Tensors { inputs, outputs });
        }
    }
    Ok(tensors)
}

/// For `recv_any_source`, whose outputs [`go`] sorts by their senders, returns the index that each output had before
/// the call.
fn sources<T>(case: &Case, first: usize, got: &[&mut T]) -> Option<Vec<usize>> {
    let position = |tensor: &&mut T| (std::ptr::from_ref::<T>(tensor).addr() - first) / size_of::<T>();
    (case.op == OpKind::RecvAnySource).then(|| got.iter().map(position).collect())
}

/// Reorders a list: item `i` becomes the item that had the index `order[i]`.
fn arrange<T>(list: &mut Vec<T>, order: Option<Vec<usize>>) {
    let Some(order) = order else { return };
    let mut places: Vec<Option<T>> = std::mem::take(list).into_iter().map(Some).collect();
    list.extend(order.into_iter().filter_map(|i| places[i].take()));
}

/// A way of running calls on buffers that live for `'a`.
trait Verb<'a> {
    fn run<B: Buffers + 'a>(&self, call: Call<B>) -> Result<B::Back>;
}

struct Blocking<'g>(&'g ProcessGroup);
struct Owned<'g>(&'g ProcessGroup);
struct Awaited<'g>(&'g ProcessGroup);
struct Scoped<'s, 'e>(&'s Scope<'s, 'e>);

impl<'a> Verb<'a> for Blocking<'_> {
    fn run<B: Buffers + 'a>(&self, call: Call<B>) -> Result<B::Back> {
        Ok(self.0.run(call)?)
    }
}

impl Verb<'static> for Owned<'_> {
    fn run<B: Buffers + 'static>(&self, call: Call<B>) -> Result<B::Back> {
        Ok(self.0.start(call).wait()?)
    }
}

impl Verb<'static> for Awaited<'_> {
    fn run<B: Buffers + 'static>(&self, call: Call<B>) -> Result<B::Back> {
        Ok(block_on(self.0.start(call))?)
    }
}

impl<'s> Verb<'s> for Scoped<'s, '_> {
    fn run<B: Buffers + 's>(&self, call: Call<B>) -> Result<B::Back> {
        self.0.start(call).wait()
    }
}

/// Returns the only tensor of a list.
fn one<T>(list: Vec<T>) -> T {
    list.into_iter().next().expect("the reference made one tensor")
}

fn go<'a, I: Buf + 'a, O: BufMut + 'a>(
    verb: &impl Verb<'a>,
    pg: &ProcessGroup,
    case: &Case,
    inputs: Vec<I>,
    outputs: Vec<O>,
) -> Result<(Vec<I>, Vec<O>)> {
    let me = pg.rank();
    if case.op.is_p2p() {
        return point_to_point(verb, case, me, inputs, outputs);
    }
    let mut params = Params::default();
    (params.reduce, params.root) = (case.reduce, case.root);
    if case.uneven && case.op == OpKind::AllToAllSingle {
        let splits = |pair: &dyn Fn(u32) -> usize| (0..case.world).map(pair).collect();
        params.set_splits(splits(&|r| case.pair(me, r)), splits(&|r| case.pair(r, me)));
    }
    let (inputs, outputs, _) = verb.run(op::any(case.op, params, inputs, outputs))?;
    Ok((inputs, outputs))
}

/// For `send` the root sends to every other rank. For `recv` and `recv_any_source` every other rank sends to the root.
fn point_to_point<'a, I: Buf + 'a, O: BufMut + 'a>(
    verb: &impl Verb<'a>,
    case: &Case,
    me: u32,
    inputs: Vec<I>,
    outputs: Vec<O>,
) -> Result<(Vec<I>, Vec<O>)> {
    // The tag is made from the case's name, so that a receive from any source gets no message of a later case.
    let name = case.to_string();
    let tag = name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte))) >> 1;
    let is_root = me == case.root;
    match (case.op, is_root) {
        (OpKind::Send, true) => {
            let send = |(to, input)| if to == me { Ok(input) } else { verb.run(op::send(input, to, tag)) };
            Ok(((0..).zip(inputs).map(send).collect::<Result<_>>()?, outputs))
        }
        (OpKind::Send, false) => Ok((inputs, vec![verb.run(op::recv(one(outputs), case.root, tag))?])),
        (_, false) => Ok((vec![verb.run(op::send(one(inputs), case.root, tag))?], outputs)),
        (OpKind::Recv, true) => {
            let recv = |(from, output)| if from == me { Ok(output) } else { verb.run(op::recv(output, from, tag)) };
            Ok((inputs, (0..).zip(outputs).map(recv).collect::<Result<_>>()?))
        }
        (_, true) => {
            let mut places: Vec<Option<O>> = outputs.into_iter().map(Some).collect();
            let mut done: Vec<Option<O>> = (0..case.world).map(|_| None).collect();
            let own = places[me as usize].take();
            for output in places.into_iter().flatten() {
                let (output, from) = verb.run(op::recv_any_source(output, tag))?;
                done[from as usize] = Some(output);
            }
            done[me as usize] = own;
            Ok((inputs, done.into_iter().flatten().collect()))
        }
    }
}
