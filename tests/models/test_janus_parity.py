"""Same weights, same inputs: what this room computes against what transformers' own Janus computes.

RecA has published no Janus code, so transformers' forward and generate are the reference for everything but the
reconstruction layout, which is ours; that one is compared with the same layout put together from transformers' parts.
"""

from collections.abc import Iterator

import pytest
import torch
from janus_tiny import examples, noise, tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.janus.processing_janus import JanusProcessor

from reca.models.base import Task
from reca.models.finite import Watch
from reca.models.janus.collation import Collator
from reca.models.janus.config import Sizes
from reca.models.janus.model import JanusProModel
from reca.models.janus.tokenizer import ENDS, IMAGE_MARKS, ROLES, find_marks
from reca.models.janus.vq import image_codes
from reca.models.losses import IGNORED

PROMPTS = ["a red cat", "two blue dogs and a cat", "a cat and a red cat"]
QUESTIONS = ["what colour is the cat?", "is the cat red?", "what is the image?"]
LIMIT = 1e-5


@pytest.fixture(scope="module")
def model() -> JanusProModel:
    return tiny_model()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, model: JanusProModel) -> JanusForConditionalGeneration:
    """transformers' model with its own attention, read from the files we write."""
    folder = tmp_path_factory.mktemp("janus")
    model.save(folder)
    return JanusForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def processor(model: JanusProModel) -> JanusProcessor:
    assert model.collator is not None
    settings = model.processing
    images = JanusImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=settings.image_mean, image_std=settings.image_std
    )
    return JanusProcessor(images, model.collator.tokenizer, num_image_tokens=16)


def captions(model: JanusProModel, prompts: list[str] = PROMPTS) -> dict[str, Tensor]:
    assert model.collator is not None
    return model.collator.captions(prompts, prompts)


def normalized(model: JanusProModel) -> Tensor:
    """The pictures of the examples as transformers' encoder takes them."""
    statistics = (model.processing.image_mean, model.processing.image_std)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in statistics)
    return (noise(3).float() / 255 - mean) / std


def with_start(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[str]:
    return [f"{tokenizer.bos_token}{text}" for text in texts]


def test_ids_are_those_of_the_published_processor(model: JanusProModel, processor: JanusProcessor) -> None:
    assert model.collator is not None
    texts = [f"<|User|>: {prompt}\n\n<|Assistant|>:" for prompt in PROMPTS]
    found = processor(text=with_start(processor.tokenizer, texts), generation_mode="image", padding=True)
    ours = captions(model)
    assert torch.equal(ours["ids"], found["input_ids"])
    assert torch.equal(ours["mask"], found["attention_mask"].bool())
    texts = [f"<|User|>: <image_placeholder>\n{question}\n\n<|Assistant|>:" for question in QUESTIONS]
    images = [picture.permute(1, 2, 0).numpy() for picture in noise(3)]
    found = processor(text=with_start(processor.tokenizer, texts), images=images, padding=True)
    ours = model.collator.questions(QUESTIONS, 4)
    assert torch.equal(ours["ids"], found["input_ids"])
    assert torch.equal(ours["mask"], found["attention_mask"].bool())


@pytest.fixture(scope="module")
def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is an id, blanks and line ends too, and a start mark is put in front, as by the published one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ENDS, extra_special_tokens=IMAGE_MARKS)
    fast.add_tokens(list(ROLES), special_tokens=True)
    start = (fast.bos_token, fast.bos_token_id)
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A", pair=f"{start[0]} $A $B", special_tokens=[start]
    )
    return fast


def test_every_blank_line_end_and_the_system_prompt_are_the_published_ones(
    bytes_tokenizer: PreTrainedTokenizerFast,
) -> None:
    size = {"height": 16, "width": 16}
    processor = JanusProcessor(
        JanusImageProcessorPil(size=size), bytes_tokenizer, use_default_system_prompt=True, num_image_tokens=16
    )
    sizes = Sizes(16, features=16, codes=16, codebook=32, vocabulary=300, context=600, image_token=0)
    ours = Collator(bytes_tokenizer, find_marks(bytes_tokenizer, "bytes"), sizes, system_prompt=True)
    texts = [f"<|User|>: <image_placeholder>\n{question}\n\n<|Assistant|>:" for question in QUESTIONS]
    images = [picture.permute(1, 2, 0).numpy() for picture in noise(3)]
    found = processor(text=texts, images=images, padding=True)
    assert torch.equal(ours.questions(QUESTIONS, 4)["ids"], found["input_ids"])
    texts = [f"<|User|>: {prompt}\n\n<|Assistant|>:" for prompt in PROMPTS]
    found = processor(text=texts, generation_mode="image", padding=True)
    assert torch.equal(ours.captions([f" {prompt} " for prompt in PROMPTS], PROMPTS)["ids"], found["input_ids"])
    answered = ours.instructions(["what is it?\na cat"], ["row"])
    labelled = answered["labels"][0][answered["labels"][0] != IGNORED].tolist()
    assert bytes_tokenizer.decode(labelled) == f" a cat{bytes_tokenizer.eos_token}"
    template = ours.templates(["draw it"], ["row"])["ids"][0].tolist()
    places = "<image_placeholder>" * 16
    assert bytes_tokenizer.decode(template) == (
        f"{bytes_tokenizer.bos_token}<|User|>: <begin_of_image>{places}<end_of_image>\ndraw it\n\n<|Assistant|>:"
        "<begin_of_image>"
    )


def test_features_are_those_of_the_published_processor_and_encoder(
    model: JanusProModel, reference: JanusForConditionalGeneration, processor: JanusProcessor
) -> None:
    images = [picture.permute(1, 2, 0).numpy() for picture in noise(2)]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = reference.model.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(model.encode(noise(2))["features"], expected, atol=LIMIT, rtol=LIMIT)


def test_codes_are_transformers_own_where_its_codebook_has_unit_length() -> None:
    model = tiny_model()
    vq, images = model.janus.model.vqmodel, noise(4).float() / 127.5 - 1
    with torch.no_grad():
        lengths = 1 + torch.rand(32, 1, generator=torch.Generator().manual_seed(0))
        vq.quantize.embedding.weight.copy_(torch.nn.functional.normalize(vq.quantize.embedding.weight, dim=-1))
        ours, theirs = image_codes(vq, images), vq.encode(images).image_tokens.view(4, 16)
        assert torch.equal(ours, theirs)
        assert ours.unique().numel() > 8
        # Lengths do not count: decoding normalises too, so entries of any length stand for the same pictures.
        vq.quantize.embedding.weight.mul_(lengths)
        assert torch.equal(image_codes(vq, images), ours)
        assert not torch.equal(vq.encode(images).image_tokens.view(4, 16), ours)


def test_codes_decode_to_the_latents_nearest_in_direction(model: JanusProModel) -> None:
    vq, images = model.janus.model.vqmodel, noise(2).float() / 127.5 - 1
    with torch.no_grad():
        codes = image_codes(vq, images)
        chosen = vq.quantize.get_codebook_entry(codes)
        latents = torch.nn.functional.normalize(vq.quant_conv(vq.encoder(images)), dim=1)
        distances = ((chosen - latents) ** 2).sum(dim=1).view(2, 16)
        every = torch.arange(32).repeat(16, 1).T.contiguous()
        others = vq.quantize.get_codebook_entry(every)
        nearest = torch.stack([((others - one) ** 2).sum(dim=1).view(32, 16).min(dim=0).values for one in latents])
    torch.testing.assert_close(distances, nearest, atol=LIMIT, rtol=LIMIT)


def teacher_forced(reference: JanusForConditionalGeneration, batch: dict[str, Tensor], pixels: Tensor | None) -> Tensor:
    """transformers' logits of a picture's codes, put together from its own parts and its two-dimensional mask."""
    embeddings = reference.get_input_embeddings()(batch["ids"])
    if pixels is not None:
        features = reference.model.get_image_features(pixels).pooler_output
        places = reference.model.get_placeholder_mask(batch["ids"], embeddings, features)
        embeddings = embeddings.masked_scatter(places, features)
    known = reference.prepare_embeddings_for_image_generation(batch["codes"][:, :-1])
    mask = torch.nn.functional.pad(batch["mask"].long(), (0, known.shape[1]), value=1)
    outputs = reference.model(inputs_embeds=torch.cat([embeddings, known], dim=1), attention_mask=mask)
    return reference.model.generation_head(outputs.last_hidden_state[:, -batch["codes"].shape[1] :])


@pytest.mark.parametrize("task", ["text_to_image", "reconstruction"])
def test_teacher_forced_logits_and_gradients(
    model: JanusProModel, reference: JanusForConditionalGeneration, task: Task
) -> None:
    batch = model.collate(task, examples(model, PROMPTS))
    pixels = normalized(model) if task == "reconstruction" else None
    expected = teacher_forced(reference, batch, pixels)
    found = model.code_logits(model.prefix(batch), batch["codes"])
    torch.testing.assert_close(found, expected, atol=LIMIT, rtol=LIMIT)
    assert expected.std() > 0.1
    theirs = torch.nn.functional.cross_entropy(expected.flatten(0, 1), batch["codes"].flatten())
    ours = model.loss(task, batch, {"caption_drop": torch.ones(3)}).mean
    torch.testing.assert_close(ours, theirs, atol=LIMIT, rtol=LIMIT)
    reference.zero_grad()
    model.zero_grad()
    ours.backward()
    theirs.backward()
    parameters = dict(reference.named_parameters())
    for name, parameter in model.trainable().items():
        gradient = parameters[name].grad
        if parameter.grad is None:
            assert gradient is None
        else:
            assert gradient is not None
            torch.testing.assert_close(parameter.grad, gradient, atol=LIMIT, rtol=1e-4)


def test_understanding_loss(model: JanusProModel, reference: JanusForConditionalGeneration) -> None:
    texts = [
        f"{question}\n{answer}" for question, answer in zip(QUESTIONS, ["red", "blue and red", "a cat"], strict=True)
    ]
    batch = model.collate("image_to_text", examples(model, texts))
    expected = reference(
        input_ids=batch["ids"],
        pixel_values=normalized(model),
        attention_mask=batch["mask"].long(),
        labels=batch["labels"],
    ).loss
    torch.testing.assert_close(model.loss("image_to_text", batch, {}).mean, expected, atol=LIMIT, rtol=LIMIT)


def test_answers_are_those_of_generate(model: JanusProModel, reference: JanusForConditionalGeneration) -> None:
    assert model.collator is not None
    batch = model.collator.questions(QUESTIONS, 6)
    rows = reference.generate(
        inputs=batch["ids"],
        pixel_values=normalized(model),
        attention_mask=batch["mask"].long(),
        generation_mode="text",
        do_sample=False,
        max_new_tokens=6,
    )[:, batch["ids"].shape[1] :]
    answers = model.answer(model.encode(noise(3)), QUESTIONS, 6)
    assert answers == [model.collator.answer(row) for row in rows.tolist()]
    assert all(answers)


def exponentials(seed: int, rows: int, steps: int) -> Iterator[Tensor]:
    """What torch.multinomial draws for one sample per row, step after step, after `torch.manual_seed(seed)`."""
    torch.manual_seed(seed)
    yield from [torch.empty(rows, 32).exponential_() for _ in range(steps)]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_drawn_codes_are_those_of_generate(
    model: JanusProModel, reference: JanusForConditionalGeneration, guidance: float, temperature: float
) -> None:
    batch = captions(model)
    sampled = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    torch.manual_seed(3)
    expected = reference.generate(
        inputs=batch["ids"],
        attention_mask=batch["mask"].long(),
        generation_mode="image",
        # At 1 and below transformers' generate stops with a shape error: it always runs the unconditional rows too.
        guidance_scale=1 + max(guidance, 1e-6),
        **sampled,
    )
    with torch.no_grad():
        draws = exponentials(3, 3, 16)
        found = model.drawn_codes(model.prefix(batch), batch, draws, guidance, temperature, Watch("janus"))
    assert torch.equal(found, expected)
    assert found.unique().numel() > 4
