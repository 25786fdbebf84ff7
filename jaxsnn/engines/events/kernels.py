"""The event-driven simulation of one image, compiled by Numba.

In each step: the input spikes are drawn; the weights of those neurons that spiked are added to the
currents of the next layer; currents are added to potentials; who is at the threshold spikes. All
that an image needs stays in a core's caches, but for the weights of the neurons that spike.

Loops over neurons go over whole slices, with few arrays in each: so LLVM turns them into vector
instructions. (An index like `first + j` could be negative, for all that it knows, and is not.)
"""

# ruff: noqa: D103
from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from jaxsnn.engines.events.kinds import DENSE, FIRST_SPIKE, NO_STOP, POOL, TO_ZERO
from jaxsnn.support.random import PARITY, ROTATIONS

OPTIONS = {"nogil": True, "cache": True, "boundscheck": False}
BARE = OPTIONS | {"_nrt": False}

_HALF = 1 << 15
# One in each byte of a word of 64 bits.
_EACH_BYTE = np.uint64(0x0101010101010101)


# -- Random bits: `jaxsnn.draws` in the words of Numba, whose integers grow unless told otherwise


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
def _decided(stop, spikes, every, counts, first_class, steps):
    if stop == FIRST_SPIKE:
        return first_class >= 0
    if stop == NO_STOP:
        return False
    largest, second = counts[0], 0
    for j in range(1, len(counts)):
        if counts[j] > largest:
            largest, second = counts[j], largest
        elif counts[j] > second:
            second = counts[j]
    asked = spikes - (steps // every if every > 0 else 0)
    return largest - second >= max(asked, 1)


# -- One image


@njit(**OPTIONS)
@no_type_check
def simulate_images(images, wiring, rules, inputs, state, results):
    """Simulate some images of a batch, each through all steps.

    Args:
        images: their places in the batch.
        wiring: `wiring.Wiring`, the network.
        rules: `engine.Numbers`, the settings.
        inputs: `engine.Inputs`, of the whole batch.
        state: `engine.Arrays`, of the whole batch, brought forward.
        results: `engine.Results`, of the whole batch, filled in.
    """
    wanted_room = 4 * (len(inputs.wanted[0]) // 4 + 8)
    width = len(wiring.thresholds)
    current = np.zeros(width, wiring.currents.dtype)
    base = np.zeros(wiring.first[1], wiring.currents.dtype)
    flags = np.zeros(width, np.uint8)
    words = flags.view(np.uint64)
    seen = np.zeros(width, np.uint8)
    senders = np.empty(max(width, wanted_room) + 2, np.int64)
    found = np.empty(max(width, wanted_room) + 2, np.int64)
    some = np.empty(max(width, wanted_room) // 8 + 1, np.int64)
    quarter = (len(inputs.wanted[0]) + 3) // 4
    room = (quarter + 7) // 8 * 8
    blocks, ones, twos = (
        np.empty(room, np.uint32),
        np.empty(room, np.uint32),
        np.empty(room, np.uint32),
    )
    wanted = np.zeros((4, room), np.uint32)
    pixels = np.zeros((4, room), np.int64)
    input_flags = np.zeros((4, room), np.uint8)
    input_words = input_flags.reshape(-1).view(np.uint64)
    rest = np.empty(4 * room, np.int64)
    for image in images:
        if state.exit_step[image] == 0:
            _simulate_image(
                image,
                wiring,
                rules,
                inputs,
                state,
                results,
                (current, base, flags, words, seen, senders, found, some, rest),
                (blocks, ones, twos, wanted, pixels, input_flags, input_words),
            )


@njit(**BARE)
@no_type_check
def _blocks_of(image, blocks, wanted, pixels):
    """The blocks of four draws that any input needs, and what these inputs are."""
    quarter = (len(image) + 3) // 4
    count = 0
    for b in range(quarter):
        needed = False
        for q in range(4):
            pixel = q * quarter + b
            value = image[pixel] if pixel < len(image) else np.uint32(0)
            wanted[q, count] = value
            pixels[q, count] = pixel
            needed = needed or value > 0
        if needed:
            blocks[count] = b
            count += 1
    return count


@njit(**BARE)
@no_type_check
def _simulate_image(image, wiring, rules, inputs, state, results, scratch, drawing):
    current, base, flags, words, seen, senders, found, some, rest = scratch
    blocks, ones, twos, wanted, pixels, input_flags, input_words = drawing
    first, layers = wiring.first, len(wiring.kinds)
    potentials, counts = state.potentials[image], state.counts[image]
    free_from, input_counts = state.free_from[image], state.input_counts[image]
    refractory = len(free_from) > 0
    spikes_of, operations_of = results.totals[image], results.operations[image]
    output, output_potentials = results.output[image], results.potentials[image]
    classes = output.shape[1]
    size = _blocks_of(inputs.wanted[image], blocks, wanted, pixels)
    flat_wanted, flat_pixels = wanted.reshape(-1), pixels.reshape(-1)
    one_current, one_kind = current[: first[1]], wiring.kinds[0]
    one_weights = wiring.weights[: wiring.first_weight[1]]
    # Inputs that spike more often than not are added once, and their exceptions taken away.
    usual = 0
    usual_operations = 0
    for q in range(4):
        for j in range(size):
            if wanted[q, j] > _HALF:
                senders[usual] = pixels[q, j]
                usual += 1
                usual_operations += wiring.input_synapses[pixels[q, j]]
                input_counts[pixels[q, j]] += rules.steps
    _clear(current)
    _receive(one_kind, one_current, one_weights, senders[:usual], wiring.starts, wiring.runs)
    _copy(base, one_current)
    _clear(input_flags.reshape(-1))
    exit_step = 0
    done = 0
    for t in range(rules.steps):
        step = rules.first_step + t
        key_one, key_two = threefry(
            inputs.keys[image, 0], inputs.keys[image, 1], np.uint32(0), np.uint32(step)
        )
        _draw_blocks(key_one, key_two, blocks[:size], ones, twos)
        _exceptions_low(ones[:size], wanted[0, :size], input_flags[0, :size])
        _exceptions_high(ones[:size], wanted[1, :size], input_flags[1, :size])
        _exceptions_low(twos[:size], wanted[2, :size], input_flags[2, :size])
        _exceptions_high(twos[:size], wanted[3, :size], input_flags[3, :size])
        exceptions = flagged(input_words, some, found)
        more, less = 0, 0
        operations = usual_operations
        for i in range(exceptions):
            pixel = flat_pixels[found[i]]
            missing = np.int64(flat_wanted[found[i]] > _HALF)
            rest[less], senders[more] = pixel, pixel
            less += missing
            more += 1 - missing
            input_counts[pixel] += 1 - 2 * missing
            operations += (1 - 2 * missing) * wiring.input_synapses[pixel]
        spikes_of[t, 0] = usual + more - less
        _receive(one_kind, one_current, one_weights, senders[:more], wiring.starts, wiring.runs)
        _take_away(one_kind, one_current, one_weights, rest[:less], wiring.starts, wiring.runs)
        count = 0
        for layer in range(layers):
            low, high = first[layer], first[layer + 1]
            potential, threshold = potentials[low:high], wiring.thresholds[low:high]
            free = free_from[low:high] if refractory else free_from
            starts = wiring.starts[wiring.first_start[layer] :]
            if wiring.kinds[layer] == POOL:
                count = _pool(
                    potential,
                    threshold,
                    wiring.gains[layer],
                    senders[:count],
                    wiring.targets[wiring.first_target[layer] :],
                    free,
                    step,
                    found,
                    seen[low:high],
                )
            else:
                now = current[low:high]
                if layer > 0:
                    weights = wiring.weights[
                        wiring.first_weight[layer] : wiring.first_weight[layer + 1]
                    ]
                    _receive(
                        wiring.kinds[layer], now, weights, senders[:count], starts, wiring.runs
                    )
                fired = flags[low:high]
                if refractory:
                    _integrate_ready(potential, now, threshold, free, step, fired)
                else:
                    _integrate(potential, now, threshold, fired)
                if layer == 0:
                    _copy(now, base)
                else:
                    _clear(now)
                count = flagged(words[low >> 3 : high >> 3], some, found)
            _reset(
                found[:count],
                potential,
                threshold,
                counts[low:high],
                free,
                rules.reset,
                step + rules.refractory_steps,
            )
            senders, found = found, senders
            spikes_of[t, layer + 1] = count
            if layer + 1 < layers:
                synapses = wiring.synapses[low:high]
                for i in range(count):
                    operations += synapses[senders[i]]
        operations_of[t] = operations
        low = first[layers - 1]
        for i in range(count):
            output[t, senders[i]] = 1
        if count > 0 and state.first_class[image] < 0:
            lowest = senders[0]
            for i in range(1, count):
                lowest = min(lowest, senders[i])
            state.first_class[image] = lowest
            state.first_step[image] = step + 1
        for j in range(classes):
            output_potentials[t, j] = potentials[low + j]
        done = t + 1
        if _decided(
            rules.stop,
            rules.stop_spikes,
            rules.stop_every,
            counts[low : low + classes],
            state.first_class[image],
            step + 1,
        ):
            exit_step = step + 1
            break
    if done < rules.steps:
        for q in range(4):
            for j in range(size):
                if wanted[q, j] > _HALF:
                    input_counts[pixels[q, j]] -= rules.steps - done
    state.exit_step[image] = exit_step
