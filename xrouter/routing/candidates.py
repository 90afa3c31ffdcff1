"""From a request to the places that may serve it, in the order in which they are tried, and why each other one may not.

    names ─► models ─► routes that fit ─► balance ─► sort ─► thresholds ─► canaries ─► order ─► who is well first

What the request says goes before what the configuration says, and that before chance. Nothing here waits or changes
anything: the same function tells an operator what would be done with a request (`explain`) and does it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from xrouter.catalog import Catalog, CatalogEntry, Sort
from xrouter.config.settings import Settings
from xrouter.context import Call, Principal, Target
from xrouter.errors import BadRequest, Forbidden, ModelNotFound, NotFound, XRouterError
from xrouter.ledger.prices import PriceBook
from xrouter.providers.upstreams import Upstream
from xrouter.routing.balance import ranked
from xrouter.routing.chance import Draw, by_chance, by_session
from xrouter.routing.fitting import Reason, checks, needs_images, reason_against
from xrouter.routing.health import Health, Place
from xrouter.routing.options import ModelOptions, Option, options_of
from xrouter.routing.parts import canaries_last, chosen_canaries, copies
from xrouter.routing.preferences import is_named, named_first, sort_of, sorted_by, thresholds_kept_first
from xrouter.routing.rates import TodaysRates
from xrouter.wire import ProviderPreferences
from xrouter.world import World

_MOST_SETTLED: Final = 10_000  # names times kinds of keys; far more than a configuration has
_LONGEST_NAME: Final = 128  # characters of an unknown model's name that a message repeats


class Asking(Struct, frozen=True):
    """What routing reads of a request. `session` as `chance.session_of`; `at_s`: wall-clock, for the price in force."""

    call: Call
    principal: Principal
    session: str | None
    at_s: float


class Candidates(Struct, frozen=True):
    """`ordered` may serve, the most wanted first; each of `left_out` may not, for its reason.

    `refusals`: why a name that was asked for gives no candidates. `left_alone`: those of `ordered` that are ejected now.
    `shadows` get a copy.
    """

    ordered: tuple[Target, ...]
    left_out: tuple[tuple[Target, Reason], ...] = ()
    left_alone: frozenset[Place] = frozenset()
    shadows: tuple[Target, ...] = ()
    refusals: tuple[XRouterError, ...] = ()

    def refusal(self) -> XRouterError:
        """What the client is told when nothing is left."""
        if self.left_out:
            counts = Counter(reason for _, reason in self.left_out)
            told = ", ".join(f"{reason.value} ({count})" for reason, count in counts.items())
            return NotFound(f"No upstream fits the request. Upstreams left out by {told}", param="provider")
        return self.refusals[0]


class _Group(Struct, frozen=True):
    """One model that was asked for: those of its options that fit, and the order that its name's suffix wants."""

    model: ModelOptions
    options: Sequence[Option]
    sort: Sort | None


class _Settled(Struct, frozen=True):
    """Candidates that are the same for every request of one model's name and one kind of key, while all places are well."""

    candidates: Candidates
    takes_images: bool


def _is_settled(group: _Group) -> bool:
    """Whether the order of a model's routes is always the same: no chance, no price of the day, nothing measured."""
    model = group.model
    ordered = model.balance == "order" or len(group.options) < 2
    return ordered and group.sort is None and not model.has_canary and not model.shadows


class Chooser:
    """The candidates of one configuration's requests. `fallback`: whether another may serve when one fails."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        upstreams: Mapping[str, Upstream],
        health: Health,
        world: World,
        *,
        fallback: bool = True,
    ) -> None:
        self._catalog = catalog
        self._health = health
        self._chance = by_chance(world)
        self._fallback = fallback
        self._rates = TodaysRates(PriceBook(settings))
        self._models = {entry.id: options_of(entry, upstreams) for entry in catalog}
        self._settled: dict[tuple[object, ...], _Settled] = {}  # by the model's name and what of the key decides

    def candidates(self, asking: Asking) -> Candidates:
        """Raises nothing for what is asked: `Candidates.refusal` says what to answer when there are none.

        Where neither the request, nor chance, nor health has a say, what was found for the same name before is the answer.
        """
        request, principal = asking.call.request, asking.principal
        if request.provider is not None or request.models is not None or not self._health.all_well:
            return self._found(asking)[0]
        decides = (request.model, asking.call.kind, principal.tier, principal.models)
        settled = self._settled.get(decides)
        if settled is not None and (settled.takes_images or not needs_images(asking.call)):
            return settled.candidates
        candidates, groups = self._found(asking)
        if len(groups) == 1 and candidates.ordered and _is_settled(groups[0]):
            if len(self._settled) >= _MOST_SETTLED:
                self._settled.clear()
            self._settled[decides] = _Settled(candidates, "image" in groups[0].model.entry.settings.inputs)
        return candidates

    def _found(self, asking: Asking) -> tuple[Candidates, Sequence[_Group]]:
        asked, refusals = self._asked(asking)
        demands = checks(
            asking.call,
            asking.call.request.provider,
            self._catalog.upstreams(asking.principal),
            lambda option: self._rates.of(option, asking.at_s),
        )
        left_out: list[tuple[Target, Reason]] = []
        groups: list[_Group] = []
        for model, sort in asked:
            options: Sequence[Option] = model.answering
            if demands:
                judged = [(option, reason_against(option, demands)) for option in options]
                options = [option for option, reason in judged if reason is None]
                left_out += [(option.target, reason) for option, reason in judged if reason is not None]
            groups.append(_Group(model, options, sort))
        draw = self._chance if asking.session is None else by_session(asking.session)
        alone = self._health.left_alone([option.place for group in groups for option in group.options])
        ordered = self._ordered(groups, alone, asking, draw)
        left_out += self._drop_fallbacks(ordered, asking.call.request.provider)
        candidates = Candidates(
            ordered=tuple([option.target for option in ordered]),
            left_out=tuple(left_out),
            left_alone=alone,
            shadows=copies(groups[0].model, draw, demands) if groups and groups[0].model.shadows else (),
            refusals=refusals,
        )
        return candidates, groups

    def _asked(self, asking: Asking) -> tuple[list[tuple[ModelOptions, Sort | None]], tuple[XRouterError, ...]]:
        """The models asked for. One unknown, forbidden or unfit name among several is passed over."""
        models: list[tuple[ModelOptions, Sort | None]] = []
        refusals: list[XRouterError] = []
        for name in asking.call.models:
            entry, sort = self._catalog.asked(name)
            refusal = self._unknown(name, asking) if entry is None else self._unfit(name, entry, asking)
            if refusal is not None:
                refusals.append(refusal)
            elif entry is not None and all(model.entry is not entry for model, _ in models):
                models.append((self._models[entry.id], sort))
        return models, tuple(refusals)

    def _unknown(self, name: str, asking: Asking) -> ModelNotFound:
        """Says that only the variant is missing, where the key may know of the model."""
        base, _, suffix = name.rpartition(":")
        known = self._catalog.resolve(base)
        told = f"There is no model {name[:_LONGEST_NAME]!r}"
        if known is not None and self._catalog.may_use(asking.principal, known):
            told += f": {base} has no variant {suffix[:_LONGEST_NAME]!r}"
        return ModelNotFound(told, param="model")

    def _unfit(self, name: str, entry: CatalogEntry, asking: Asking) -> XRouterError | None:
        if not self._catalog.may_use(asking.principal, entry):
            return Forbidden(f"This key may not use the model {name!r}", param="model")
        if (entry.settings.kind == "embedding") != (asking.call.kind == "embeddings"):
            return BadRequest(f"{name!r} is no model for this endpoint", param="model")
        if "image" not in entry.settings.inputs and needs_images(asking.call):
            return BadRequest(f"{entry.id} takes no images", param="messages")
        return None

    def _ordered(self, groups: Sequence[_Group], alone: frozenset[Place], asking: Asking, draw: Draw) -> list[Option]:
        """All groups' options. Those of places that are left alone come last, but stay: with nothing better, a try is
        better than a refusal (F05).
        """
        models = [group.model for group in groups if group.model.has_canary]
        canaries = chosen_canaries(models, draw) if models else None
        if not alone:
            return self._arranged(groups, canaries, asking, draw)
        well = [
            _Group(group.model, [option for option in group.options if option.place not in alone], group.sort)
            for group in groups
        ]
        ill = [
            _Group(group.model, [option for option in group.options if option.place in alone], group.sort)
            for group in groups
        ]
        return self._arranged(well, canaries, asking, draw) + self._arranged(ill, canaries, asking, draw)

    def _arranged(
        self, groups: Sequence[_Group], canaries: frozenset[Option] | None, asking: Asking, draw: Draw
    ) -> list[Option]:
        preferences = asking.call.request.provider
        sort, together = sort_of(preferences)
        arranged: list[Option] = []
        for group in groups:
            options = self._ranked(group, asking, draw)
            if together:
                arranged += options
            else:
                arranged += self._preferred(options, group.sort or sort, canaries, asking)
        return self._preferred(arranged, sort, canaries, asking) if together else arranged

    def _ranked(self, group: _Group, asking: Asking, draw: Draw) -> list[Option]:
        sticky = asking.session is not None and group.model.entry.settings.sticky
        return ranked(
            group.options,
            group.model.balance,
            self._health,
            draw if sticky else self._chance,
            sticky=sticky,
            price=lambda option: self._rates.per_token(option, asking.at_s),
        )

    def _preferred(
        self, options: list[Option], sort: Sort | None, canaries: frozenset[Option] | None, asking: Asking
    ) -> list[Option]:
        preferences = asking.call.request.provider
        if sort is not None:
            options = sorted_by(options, sort, self._health, lambda option: self._rates.per_token(option, asking.at_s))
        if preferences is not None:
            options = thresholds_kept_first(options, preferences, self._health)
        if canaries is not None:
            options = canaries_last(options, canaries)
        if preferences is not None and preferences.order:
            options = named_first(options, preferences.order)
        return options

    def _drop_fallbacks(
        self, ordered: list[Option], preferences: ProviderPreferences | None
    ) -> list[tuple[Target, Reason]]:
        """Take out of `ordered` those that only stand in for others, where nobody may.

        With `allow_fallbacks: false` those stay that `order` names; without one, each model's first.
        """
        if not self._fallback:
            dropped, reason = ordered[1:], Reason.FALLBACK
        elif preferences is None or preferences.allow_fallbacks is not False:
            return []
        elif preferences.order:
            order = preferences.order
            dropped, reason = [option for option in ordered if not is_named(option, order)], Reason.ALLOW_FALLBACKS
        else:
            first = {option.target.public_model: option for option in reversed(ordered)}
            dropped = [option for option in ordered if first[option.target.public_model] is not option]
            reason = Reason.ALLOW_FALLBACKS
        ordered[:] = [option for option in ordered if option not in dropped]
        return [(option.target, reason) for option in dropped]
