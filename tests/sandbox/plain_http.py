"""`httpx.get`, `post` and `stream` without loading the machine's certificates, which takes longer than a request here."""

from functools import partial

import httpx

get = partial(httpx.get, verify=False, trust_env=False)
post = partial(httpx.post, verify=False, trust_env=False)
stream = partial(httpx.stream, verify=False, trust_env=False)
