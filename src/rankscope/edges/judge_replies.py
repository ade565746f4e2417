"""What a judge replied, in a study folder: a file for each request, by the hash of its content, and one for each that
was counted against a suite's budget."""

from __future__ import annotations

import json

from rankscope.edges.storages import Storage


class JudgeReplies:
    """The part of a study folder that keeps replies, shared by all processes that work on the study."""

    storage: Storage

    def read_judged(self, key: str) -> str | None:
        """The reply to a request; None where there is none, or none that can be read: it is then asked for again."""
        content = self.storage.read(_reply(key))
        try:
            reply = None if content is None else json.loads(content)["reply"]
        except (ValueError, LookupError, TypeError):
            return None
        return reply if isinstance(reply, str) else None

    def write_judged(self, key: str, reply: str) -> None:
        """Neither the key of the endpoint nor its address is known here."""
        self.storage.write(_reply(key), json.dumps({"reply": reply}, ensure_ascii=False).encode())

    def take_judge_request(self, suite: str, most: int) -> bool:
        """Count one more request of a suite, over all processes; False where there were `most` already."""
        folder = f"judge/requests/{suite}"
        number = len(self.storage.list(folder))
        while number < most:
            if self.storage.create(f"{folder}/{number:07d}", b""):
                return True
            number += 1
        return False


def _reply(key: str) -> str:
    return f"judge/replies/{key[:2]}/{key}.json"
