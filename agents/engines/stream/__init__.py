"""One streamed HTTP exchange, and what its bytes mean.

A token's way: ``receive`` stamps the bytes as they come -> ``sse`` makes events of them, each with the time of its last
byte (``response`` undoes HTTP's framing) -> ``chunks`` reads text and token counts out of the events ->
``agents/job/trial.py`` keeps them as arrivals -> ``agents/contract/rates.py`` computes ``decode_tps``. Before it,
``exchange`` and ``transport`` send the request.
"""
