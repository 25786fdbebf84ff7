"""The event-driven simulation of one image, compiled by Numba.

In each step: the input spikes are drawn; the weights of those neurons that spiked are added to the
currents of the next layer; currents are added to potentials; who is at the threshold spikes. All
that an image needs stays in a core's caches, but for the weights of the neurons that spike.

Loops over neurons go over whole slices, with few arrays in each: so LLVM turns them into vector
instructions. (An index like `first + j` could be negative, for all that it knows, and is not.)
"""

# ruff: noqa: D103
from __future__ import annotations

from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit

from jaxsnn.engines.events.kinds import DENSE, FIRST_SPIKE, NO_STOP, POOL, TO_ZERO
from jaxsnn.support.random import PARITY, ROTATIONS

OPTIONS = {"nogil": True, "cache": True, "boundscheck": False}
BARE = OPTIONS | {"_nrt": False}
# Parts of one loop, which pass many arrays to each other.
INLINED = BARE | {"inline": "always"}

_HALF = 1 << 15
# One in each byte of a word of 64 bits.
_EACH_BYTE = np.uint64(0x0101010101010101)


# -- Random bits: `support.random` in Numba, whose integers grow unless told otherwise


@njit(**BARE)
@no_type_check
def _mix(one, two, distance):
    one = np.uint32(one + two)
    left = np.uint32(two << np.uint32(distance))
    right = np.uint32(two >> np.uint32(32 - distance))
    return one, np.uint32((left | right) ^ one)


@njit(**BARE)
@no_type_check
def _four_rounds(one, two, distances):
    one, two = _mix(one, two, distances[0])
    one, two = _mix(one, two, distances[1])
    one, two = _mix(one, two, distances[2])
    return _mix(one, two, distances[3])


@njit(**BARE)
@no_type_check
def threefry(key_one, key_two, one, two):
    third = np.uint32(key_one ^ key_two ^ np.uint32(PARITY))
    one, two = np.uint32(one + key_one), np.uint32(two + key_two)
    one, two = _four_rounds(one, two, ROTATIONS[0])
    one, two = np.uint32(one + key_two), np.uint32(two + third + np.uint32(1))
    one, two = _four_rounds(one, two, ROTATIONS[1])
    one, two = np.uint32(one + third), np.uint32(two + key_one + np.uint32(2))
    one, two = _four_rounds(one, two, ROTATIONS[0])
    one, two = np.uint32(one + key_one), np.uint32(two + key_two + np.uint32(3))
    one, two = _four_rounds(one, two, ROTATIONS[1])
    one, two = np.uint32(one + key_two), np.uint32(two + third + np.uint32(4))
    one, two = _four_rounds(one, two, ROTATIONS[0])
    return np.uint32(one + third), np.uint32(two + key_one + np.uint32(5))


@njit(**BARE)
@no_type_check
def _draw_blocks(key_one, key_two, blocks, ones, twos):
    for j in range(len(blocks)):
        ones[j], twos[j] = threefry(key_one, key_two, np.uint32(0), blocks[j])


# -- Inputs. An input that spikes more often than not is taken to spike, and the steps in which it
# -- does not are the exceptions: the rarer of the two is what work is done for.


@njit(**BARE)
@no_type_check
def _exceptions_low(words, wanted, flags):
    for j in range(len(words)):
        flags[j] = ((words[j] & np.uint32(0xFFFF)) < wanted[j]) != (wanted[j] > np.uint32(_HALF))


@njit(**BARE)
@no_type_check
def _exceptions_high(words, wanted, flags):
    for j in range(len(words)):
        flags[j] = ((words[j] >> np.uint32(16)) < wanted[j]) != (wanted[j] > np.uint32(_HALF))


@njit(**BARE)
@no_type_check
def _place(word, flag):
    """The place of the byte that has the flag: the bytes below it, added up by a product."""
    return np.int64(((flag - np.uint64(1)) & _EACH_BYTE) * _EACH_BYTE >> np.uint64(56)) + (
        word << 3
    )


@njit(**BARE)
@no_type_check
def flagged(words, some, found):
    """The places of the bytes that are 1, where a word is eight of them and the others are 0.

    Nearly without branches: whether a neuron spikes cannot be foreseen, and a processor that
    foresees wrongly loses as much time as it takes to add a few hundred weights.
    """
    size = 0
    for w in range(len(words)):
        some[size] = w
        size += words[w] != 0
    count = 0
    for i in range(size):
        w = some[i]
        word = words[w]
        number = word * _EACH_BYTE >> np.uint64(56)
        first = word & (~word + np.uint64(1))
        found[count] = _place(w, first)
        word ^= first
        second = word & (~word + np.uint64(1))
        found[count + 1] = _place(w, second)  # if there is none, the next one takes its place
        word ^= second
        more = count + 2
        while word != 0:
            lowest = word & (~word + np.uint64(1))
            found[more] = _place(w, lowest)
            more += 1
            word ^= lowest
        count += np.int64(number)
    return count


# -- Currents


@njit(**BARE)
@no_type_check
def _add(current, weights):
    for j in range(len(current)):
        current[j] += weights[j]


@njit(**BARE)
@no_type_check
def _subtract(current, weights):
    for j in range(len(current)):
        current[j] -= weights[j]


@njit(**BARE)
@no_type_check
def _add_four(current, one, two, three, four):
    for j in range(len(current)):
        current[j] += one[j] + two[j] + three[j] + four[j]


@njit(**BARE)
@no_type_check
def _subtract_four(current, one, two, three, four):
    for j in range(len(current)):
        current[j] -= one[j] + two[j] + three[j] + four[j]


def _walk(one, four):
    """A function that adds the weights of senders to the currents that they lead to, or takes away.

    Args:
        one: adds or takes away a run of weights.
        four: does so with four runs at once.
    """

    @njit(**BARE)
    @no_type_check
    def rows(current, weights, senders):
        size = len(current)
        whole = len(senders) // 4 * 4
        for i in range(0, whole, 4):
            four(
                current,
                weights[senders[i] * size :][:size],
                weights[senders[i + 1] * size :][:size],
                weights[senders[i + 2] * size :][:size],
                weights[senders[i + 3] * size :][:size],
            )
        for i in range(whole, len(senders)):
            one(current, weights[senders[i] * size :][:size])

    @njit(**BARE)
    @no_type_check
    def walk(kind, current, weights, senders, starts, runs):
        if kind == DENSE:
            rows(current, weights, senders)
            return
        for sender in senders:
            for r in range(starts[sender], starts[sender + 1]):
                neuron, weight, length = runs[r, 0], runs[r, 1], runs[r, 2]
                one(current[neuron : neuron + length], weights[weight : weight + length])

    return walk


_receive = _walk(_add, _add_four)
_take_away = _walk(_subtract, _subtract_four)


# -- Neurons


@njit(**BARE)
@no_type_check
def _copy(target, source):
    for j in range(len(target)):
        target[j] = source[j]


@njit(**BARE)
@no_type_check
def _clear(target):
    for j in range(len(target)):
        target[j] = 0


@njit(**BARE)
@no_type_check
def _integrate(potential, current, threshold, flags):
    for j in range(len(potential)):
        potential[j] += current[j]
        flags[j] = potential[j] >= threshold[j]


@njit(**BARE)
@no_type_check
def _integrate_ready(potential, current, threshold, free_from, step, flags):
    """As `_integrate`, for neurons whose refractory period has passed."""
    for j in range(len(potential)):
        ready = free_from[j] <= step
        if ready:
            potential[j] += current[j]
        flags[j] = ready and potential[j] >= threshold[j]


@njit(**BARE)
@no_type_check
def _reset(neurons, potential, threshold, counts, free_from, reset, free):
    for j in neurons:
        counts[j] += 1
        if reset == TO_ZERO:
            potential[j] = 0
        else:
            potential[j] -= threshold[j]
    if len(free_from) > 0:
        for j in neurons:
            free_from[j] = free


@njit(**BARE)
@no_type_check
def _pool(potential, threshold, gain, senders, targets, free_from, step, found, seen):
    """Neurons with few inputs each: only those that receive a spike are looked at."""
    for sender in senders:
        target = targets[sender]
        if len(free_from) == 0 or free_from[target] <= step:
            potential[target] += gain
    count = 0
    for sender in senders:
        target = targets[sender]
        # A refractory neuron is below its threshold: it was reset, and receives nothing.
        fires = np.uint8(potential[target] >= threshold[target]) & np.uint8(seen[target] == 0)
        seen[target] |= fires
        found[count] = target
        count += fires
    for i in range(count):
        seen[found[i]] = 0
    return count


@njit(**BARE)
@no_type_check
def _decided(settings, counts, first_class, steps):
    if settings.stop == FIRST_SPIKE:
        return first_class >= 0
    if settings.stop == NO_STOP:
        return False
    largest, second = counts[0], 0
    for j in range(1, len(counts)):
        if counts[j] > largest:
            largest, second = counts[j], largest
        elif counts[j] > second:
            second = counts[j]
    every = settings.stop_every
    asked = settings.stop_spikes - (steps // every if every > 0 else 0)
    return largest - second >= max(asked, 1)


# -- One image


class Scratch(NamedTuple):
    """Arrays that an image needs while it is simulated; those of whole steps start as zeros."""

    current: np.ndarray  # [P] weighted spikes of a step
    base: np.ndarray  # currents of the inputs that usually spike
    flags: np.ndarray  # [P] who fires
    words: np.ndarray  # the flags, eight in a word
    seen: np.ndarray  # [P] of poolings, who fires
    senders: np.ndarray
    found: np.ndarray
    some: np.ndarray
    rest: np.ndarray


class Draws(NamedTuple):
    """The blocks of four draws that an image needs, for the inputs q·n + b of block b."""

    blocks: np.ndarray
    ones: np.ndarray
    twos: np.ndarray
    wanted: np.ndarray  # [4, blocks]
    pixels: np.ndarray  # [4, blocks]
    flags: np.ndarray  # [4, blocks] which inputs are exceptions
    words: np.ndarray  # the flags, eight in a word


@njit(**OPTIONS)
@no_type_check
def simulate_images(images, tables, settings, inputs, state, results):
    """Simulate some images of a batch, each through all steps.

    Args:
        images: their places in the batch.
        tables: `layout.Tables`, the network.
        settings: `run.Settings`.
        inputs: `run.Inputs`, of the whole batch.
        state: `run.Arrays`, of the whole batch, brought forward.
        results: `run.Results`, of the whole batch, filled in.
    """
    quarter = (len(inputs.wanted[0]) + 3) // 4
    blocks = (quarter + 7) // 8 * 8
    width = len(tables.thresholds)
    longest = max(width, 4 * blocks + 32)
    flags = np.zeros(width, np.uint8)
    scratch = Scratch(
        np.zeros(width, tables.currents.dtype),
        np.zeros(tables.first[1], tables.currents.dtype),
        flags,
        flags.view(np.uint64),
        np.zeros(width, np.uint8),
        np.empty(longest + 2, np.int64),
        np.empty(longest + 2, np.int64),
        np.empty(longest // 8 + 1, np.int64),
        np.empty(4 * blocks, np.int64),
    )
    input_flags = np.zeros((4, blocks), np.uint8)
    draws = Draws(
        np.empty(blocks, np.uint32),
        np.empty(blocks, np.uint32),
        np.empty(blocks, np.uint32),
        np.zeros((4, blocks), np.uint32),
        np.zeros((4, blocks), np.int64),
        input_flags,
        input_flags.reshape(-1).view(np.uint64),
    )
    for image in images:
        if state.exit_step[image] == 0:
            _simulate_image(image, tables, settings, inputs, state, results, scratch, draws)


@njit(**BARE)
@no_type_check
def _needed_blocks(image, draws):
    """Fill in the blocks of four draws that any input needs, and what these inputs are."""
    quarter = (len(image) + 3) // 4
    count = 0
    for b in range(quarter):
        needed = False
        for q in range(4):
            pixel = q * quarter + b
            value = image[pixel] if pixel < len(image) else np.uint32(0)
            draws.wanted[q, count] = value
            draws.pixels[q, count] = pixel
            needed = needed or value > 0
        if needed:
            draws.blocks[count] = b
            count += 1
    return count


@njit(**BARE)
@no_type_check
def _usual_inputs(draws, size, senders):
    """The inputs that spike more often than not, of which only the exceptions are drawn."""
    usual = 0
    for q in range(4):
        for j in range(size):
            if draws.wanted[q, j] > _HALF:
                senders[usual] = draws.pixels[q, j]
                usual += 1
    return usual


@njit(**BARE)
@no_type_check
def _count_usual(draws, size, steps, input_counts):
    for q in range(4):
        for j in range(size):
            if draws.wanted[q, j] > _HALF:
                input_counts[draws.pixels[q, j]] += steps


@njit(**INLINED)
@no_type_check
def _draw(keys, step, draws, size, some, found):
    """Draw the inputs of a step: the exceptions, as places among the draws."""
    key_one, key_two = threefry(keys[0], keys[1], np.uint32(0), np.uint32(step))
    ones, twos, wanted, flags = draws.ones[:size], draws.twos[:size], draws.wanted, draws.flags
    _draw_blocks(key_one, key_two, draws.blocks[:size], ones, twos)
    _exceptions_low(ones, wanted[0, :size], flags[0, :size])
    _exceptions_high(ones, wanted[1, :size], flags[1, :size])
    _exceptions_low(twos, wanted[2, :size], flags[2, :size])
    _exceptions_high(twos, wanted[3, :size], flags[3, :size])
    return flagged(draws.words, some, found)


@njit(**INLINED)
@no_type_check
def _sorted_exceptions(exceptions, draws, senders, rest, input_counts, fan_outs):
    """The inputs that spike for once, and those that do not; and the operations of both."""
    wanted, pixels = draws.wanted.reshape(-1), draws.pixels.reshape(-1)
    more, less, operations = 0, 0, 0
    for exception in exceptions:
        pixel = pixels[exception]
        missing = np.int64(wanted[exception] > _HALF)
        rest[less], senders[more] = pixel, pixel
        less += missing
        more += 1 - missing
        input_counts[pixel] += 1 - 2 * missing
        operations += (1 - 2 * missing) * fan_outs[pixel]
    return more, less, operations


@njit(**INLINED)
@no_type_check
def _fire(layer, tables, scratch, potential, free, step, senders, found):
    """One step of one layer: the weights of the senders are added; returns how many fire."""
    low, high = tables.first[layer], tables.first[layer + 1]
    threshold = tables.thresholds[low:high]
    if tables.kinds[layer] == POOL:
        return _pool(
            potential,
            threshold,
            tables.gains[layer],
            senders,
            tables.targets[tables.first_target[layer] :],
            free,
            step,
            found,
            scratch.seen[low:high],
        )
    now = scratch.current[low:high]
    if layer > 0:
        weights = tables.weights[tables.first_weight[layer] : tables.first_weight[layer + 1]]
        starts = tables.starts[tables.first_start[layer] :]
        _receive(tables.kinds[layer], now, weights, senders, starts, tables.runs)
    fired = scratch.flags[low:high]
    if len(free) > 0:
        _integrate_ready(potential, now, threshold, free, step, fired)
    else:
        _integrate(potential, now, threshold, fired)
    if layer == 0:
        _copy(now, scratch.base)
    else:
        _clear(now)
    return flagged(scratch.words[low >> 3 : high >> 3], scratch.some, found)


@njit(**BARE)
@no_type_check
def _sum_at(values, places):
    total = 0
    for place in places:
        total += values[place]
    return total


@njit(**INLINED)
@no_type_check
def _write_output(fired, potentials, image, t, step, state, results):
    """Write down what the output neurons do in a step."""
    for neuron in fired:
        results.output[image, t, neuron] = 1
    if len(fired) > 0 and state.first_class[image] < 0:
        lowest = fired[0]
        for neuron in fired:
            lowest = min(lowest, neuron)
        state.first_class[image] = lowest
        state.first_step[image] = step + 1
    for j in range(results.output.shape[2]):
        results.potentials[image, t, j] = potentials[j]


@njit(**BARE)
@no_type_check
def _simulate_image(image, tables, settings, inputs, state, results, scratch, draws):
    first, layers = tables.first, len(tables.kinds)
    potentials, counts = state.potentials[image], state.counts[image]
    free_from, input_counts = state.free_from[image], state.input_counts[image]
    spikes, classes = results.totals[image], results.output.shape[2]
    senders, found, rest = scratch.senders, scratch.found, scratch.rest
    kind, current = tables.kinds[0], scratch.current[: first[1]]
    weights = tables.weights[: tables.first_weight[1]]
    size = _needed_blocks(inputs.wanted[image], draws)
    usual = _usual_inputs(draws, size, senders)
    usual_operations = _sum_at(tables.input_synapses, senders[:usual])
    _clear(current)
    _receive(kind, current, weights, senders[:usual], tables.starts, tables.runs)
    _copy(scratch.base, current)
    _clear(draws.flags.reshape(-1))
    exit_step = 0
    done = 0
    for t in range(settings.steps):
        step = settings.first_step + t
        exceptions = _draw(inputs.keys[image], step, draws, size, scratch.some, found)
        more, less, operations = _sorted_exceptions(
            found[:exceptions], draws, senders, rest, input_counts, tables.input_synapses
        )
        operations += usual_operations
        spikes[t, 0] = usual + more - less
        _receive(kind, current, weights, senders[:more], tables.starts, tables.runs)
        _take_away(kind, current, weights, rest[:less], tables.starts, tables.runs)
        count = 0
        for layer in range(layers):
            low, high = first[layer], first[layer + 1]
            potential, free = potentials[low:high], free_from[low:high]
            count = _fire(layer, tables, scratch, potential, free, step, senders[:count], found)
            _reset(
                found[:count],
                potential,
                tables.thresholds[low:high],
                counts[low:high],
                free,
                settings.reset,
                step + settings.refractory_steps,
            )
            senders, found = found, senders
            spikes[t, layer + 1] = count
            if layer + 1 < layers:
                operations += _sum_at(tables.synapses[low:high], senders[:count])
        results.operations[image, t] = operations
        low = first[layers - 1]
        _write_output(senders[:count], potentials[low:], image, t, step, state, results)
        done = t + 1
        spiked = counts[low : low + classes]
        if _decided(settings, spiked, state.first_class[image], step + 1):
            exit_step = step + 1
            break
    _count_usual(draws, size, done, input_counts)
    state.exit_step[image] = exit_step
