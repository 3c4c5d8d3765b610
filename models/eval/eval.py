#!/usr/bin/env python3
"""Measures a model on questions with passages: recall of routing beside BM25 and
MiniLM, answers, and what happens when no passage answers. Prints tables in Markdown
and writes everything as JSON.

    python3 models/eval/eval.py --data DIR --program build/cpu/msa-batch [--sets a b] [--questions 200]

DIR holds SET.jsonl.xz, lines {"id", "question", "answers", "positives"}, and either
SET.passages.jsonl.xz or one passages.jsonl.xz with lines {"id", "title", "text"}. The
engine does the work, through `msa-batch prefill`, `route` and `run`; a passage is one
record of a JSONL corpus, and when it was cut into several documents any of them is a
hit. Three ways to choose documents are compared on one store: the router alone, words
alone (the lexical score with all the weight), and both. With --base another model, such
as the untouched base, answers the same questions from what words alone choose. What is in
the work folder already is not computed again. With --together all sets share one corpus."""
import argparse
import glob
import hashlib
import json
import lzma
import os
import random
import subprocess
import sys
import time

import measure
import peers

LIST = 100           # documents of each list: enough for recall@16 and for fusing ranks
WORDS_ALONE = 1e6    # beside it the router only orders what is equal by words


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    a.add_argument("--data", required=True)
    a.add_argument("--program", required=True)
    a.add_argument("--model", default="models/default")
    a.add_argument("--work", default="out/eval", help="stores and results")
    a.add_argument("--sets", nargs="*", help="default: all")
    a.add_argument("--questions", type=int, default=200, help="of each set; 0: all")
    a.add_argument("--passages", type=int, default=0, help="of each set, those of the questions always; 0: all")
    a.add_argument("--held-out", action="store_true", help="only questions that models/train/prepare.py holds out")
    a.add_argument("--together", action="store_true", help="one corpus of all sets' passages")
    a.add_argument("--distractors", help="further passages: a file of lines as in SET.passages.jsonl.xz")
    a.add_argument("--distractors-n", type=int, default=0, help="the first n of them; 0: all")
    a.add_argument("--withhold", type=int, default=50,
                   help="questions of each set that are asked again without their passages; 0: none")
    a.add_argument("--parts", type=int, default=1,
                   help="ask those in so many parts: a part lacks only its own questions' passages, not all of them")
    a.add_argument("--withhold-documents", action="store_true",
                   help="without all passages of their passages' documents (of the same title): what surrounds a passage may answer, too")
    a.add_argument("--lexical", default="", help="weight,candidates; default: the model's own, or 0.3,100")
    a.add_argument("--weights", default="", help="further weights of the lexical score to compare, by commas")
    a.add_argument("--peers", default="bm25,minilm")
    a.add_argument("--no-answers", action="store_true", help="recall only")
    a.add_argument("--no-recall", action="store_true", help="answers only")
    a.add_argument("--answers-by", default="both,words", help="router, words, both; may be empty beside --base")
    a.add_argument("--withheld-by", help="as --answers-by, for questions without their passages; default: the same")
    a.add_argument("--base", metavar="DIR", help="a model folder that answers too, its documents chosen by words alone, "
                   "as models/make_default.sh build/cpu/msa-gguf DIR models/eval/base makes it")
    a.add_argument("--max-tokens", type=int, default=48, help="of an answer")
    a.add_argument("--device", default="auto")
    a.add_argument("--compute", default="auto")
    a.add_argument("--out", help="the JSON file; default: eval.json in the work folder")
    return a.parse_args()


def lines(path):
    with (lzma.open if path.endswith(".xz") else open)(path, "rt", encoding="utf-8") as f:
        yield from map(json.loads, f)


def full_text(p):
    return (p["title"] + "\n" if p.get("title") else "") + p["text"]


def run(command, **more):
    """Runs a program; files or questions that failed (2, 3) are a result too."""
    done = subprocess.run(command, stdout=subprocess.PIPE, **more)
    if done.returncode not in (0, 2, 3):
        sys.exit(f"eval: {' '.join(command)}: exit {done.returncode}")
    return done.stdout


# ---- data -------------------------------------------------------------------------

def held_out(title):
    """As models/train/prepare.py has it, which needs more packages than this."""
    return int(hashlib.md5(title.encode()).hexdigest(), 16) % 10 == 0


def choose(a, name, shared):
    """Questions and passages of a set: deterministic."""
    own = os.path.join(a.data, name + ".passages.jsonl.xz")
    passages = {p["id"]: p for p in lines(own)} if os.path.exists(own) else shared()
    rows = [r for r in lines(os.path.join(a.data, name + ".jsonl.xz"))
            if r.get("scope", "open") == "open" and r["positives"] and all(p in passages for p in r["positives"])]
    used = dict.fromkeys(p for r in rows for p in r["positives"])
    if not os.path.exists(own):   # of a pool for all sets, what belongs to this one
        used.update(dict.fromkeys(p for p in passages if p.startswith(name + ":")))
        passages = {p: passages[p] for p in used}
    if a.held_out:
        rows = [r for r in rows if held_out(passages[r["positives"][0]].get("title") or r["positives"][0])]
    rnd = random.Random(name)
    rnd.shuffle(rows)
    questions = rows[:a.questions] if a.questions else rows
    keep = dict.fromkeys(p for q in questions for p in q["positives"])
    rest = [p for p in passages if p not in keep]
    if a.passages:
        rnd.shuffle(rest)
        rest = rest[:max(0, a.passages - len(keep))]
    return questions, [passages[p] for p in list(keep) + rest]


def titled(p):
    """What a passage's document is known by."""
    return p.get("title") or p["id"]


def write_lines(path, rows):
    """Replaces the file when it would be another: a store knows files by time."""
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    if not os.path.exists(path) or open(path, encoding="utf-8").read() != text:
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)


def deal(a, questions, titles):
    """Questions that are asked again in parts; by document where whole ones are withheld, so
    that a part lacks few of them."""
    if not a.withhold_documents:
        return [questions[i::a.parts] for i in range(a.parts)]
    names = list(dict.fromkeys(titles[q["positives"][0]] for q in questions))
    return [[q for q in questions if titles[q["positives"][0]] in names[i::a.parts]] for i in range(a.parts)]


def write_corpus(folder, a, passages, parts):
    """One record a passage. parts: questions that are asked again without their passages.
    Returns the distractors, the names of all files, and for each part those without its
    passages: main.jsonl has what no part lacks, withheld-0-2.jsonl what parts 0 and 2 lack."""
    os.makedirs(os.path.join(folder, "in"), exist_ok=True)
    record = lambda p: {"id": p["id"], "title": p.get("title") or "", "text": p["text"]}
    lacks, files, of_title = {}, {(): []}, {}
    for p in passages:
        of_title.setdefault(titled(p), []).append(p["id"])
    titles = {p["id"]: titled(p) for p in passages}
    for i, part in enumerate(parts):
        gone = [p for q in part for p in q["positives"]]
        if a.withhold_documents:
            gone = [p for t in dict.fromkeys(titles[p] for p in gone) for p in of_title[t]]
        for p in dict.fromkeys(gone):
            lacks.setdefault(p, []).append(i)
    for p in passages:
        files.setdefault(tuple(lacks.get(p["id"], ())), []).append(record(p))
    name = lambda of: "withheld-" + "-".join(map(str, of)) + ".jsonl" if of else "main.jsonl"
    for of, rows in files.items():
        write_lines(os.path.join(folder, "in", name(of)), rows)
    more = []
    if a.distractors:
        known = {p["id"] for p in passages}
        for i, p in enumerate(lines(a.distractors)):
            if a.distractors_n and i == a.distractors_n:
                break
            if p["id"] not in known:
                more.append(record(p))
        write_lines(os.path.join(folder, "in/distractors.jsonl"), more)
    last = ["distractors.jsonl"] if more else []
    return (more, [name(of) for of in files] + last,
            [[name(of) for of in files if i not in of] + last for i in range(len(parts))])


# ---- the engine -------------------------------------------------------------------

def variants(a):
    """Folders of the model that differ in the lexical score alone, and so share a store."""
    source = os.path.abspath(a.model)
    with open(os.path.join(source, "msa_protocol.json"), encoding="utf-8") as f:
        protocol = json.load(f)
    own = protocol.get("lexical") or {}
    if a.lexical:
        weight, candidates = a.lexical.split(",")
        own = {"weight": float(weight), "candidates": int(candidates)}
    elif not own.get("weight"):
        own = {"weight": 0.3, "candidates": 100}
    settings = {"router": None, "words": {"weight": WORDS_ALONE, "candidates": LIST}, "both": own}
    folders = {}
    for name, lexical in settings.items():
        folder = folders[name] = os.path.join(a.work, "models", name)
        os.makedirs(folder, exist_ok=True)
        for f in os.listdir(folder):
            os.remove(os.path.join(folder, f))
        for f in os.listdir(source):
            if f != "msa_protocol.json":
                os.symlink(os.path.join(source, f), os.path.join(folder, f))
        # the bias knows the scores of the model's own "both" alone
        own_scores = name == "both" and lexical == protocol.get("lexical")
        changed = {k: v for k, v in protocol.items() if k != "lexical" and (own_scores or k != "not_found_bias")}
        if lexical:
            changed["lexical"] = lexical
        with open(os.path.join(folder, "msa_protocol.json"), "w", encoding="utf-8") as f:
            json.dump(changed, f, indent=1)
    return folders, own


def write_job(folder, name, model, files, questions, max_tokens, corpus="in"):
    os.makedirs(folder, exist_ok=True)
    job = {"version": 1, "id": name, "model": os.path.abspath(model),
           "corpus": {"store": "store", "sources": [{"path": corpus, "include": files}]},
           "defaults": {"max_tokens": max_tokens, "temperature": 0, "quotes": "off"},
           "queries": [{"custom_id": q["id"], "query": q["question"]} for q in questions],
           "output": {"dir": "out-" + name}}
    path = os.path.join(folder, name + ".json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(job, f, ensure_ascii=False)
    return path


def compute(a):
    return ["--device", a.device, "--compute", a.compute]


def route(a, folder, model, questions, k=LIST):
    """What was routed, rows of msa-batch route, by question id."""
    asked = "".join(json.dumps({"id": q["id"], "question": q["question"]}, ensure_ascii=False) + "\n" for q in questions)
    out = run([a.program, "route", "--store", os.path.join(folder, "store"), "--model", model, "-k", str(k)] + compute(a),
              input=asked.encode())
    return {r["id"]: r["routed"] for r in map(json.loads, out.splitlines())}


def records(routed):
    return {i: [d["record"] for d in rows[:LIST]] for i, rows in routed.items()}


def weighed(routed, weight):
    """The lists that another weight would give: rows hold all candidates and both parts."""
    lists = {}
    for i, rows in routed.items():
        least = min((d["router"] for d in rows if d["router"] is not None), default=0)
        score = {d["doc_id"]: (least if d["router"] is None else d["router"]) + weight * d["lexical"] for d in rows}
        lists[i] = [d["record"] for d in sorted(rows, key=lambda d: (-score[d["doc_id"]], d["doc_id"]))]
    return lists


def answer(a, folder, job):
    """Results by question id; a question that failed has none."""
    run([a.program, "run", "-q", job] + compute(a))
    with open(os.path.join(folder, "out-" + os.path.basename(job)[:-5], "results.jsonl"), encoding="utf-8") as f:
        return {r["custom_id"]: r["response"]["body"] for r in map(json.loads, f)}


# ---- one set ----------------------------------------------------------------------

def share(part, whole):
    return 100 * part / whole if whole else None


def measure_answers(found, questions):
    """In per cent of the questions with gold answers: exact match and F1, of the answer and
    of its first sentence, and whether it holds a gold answer; no answer counts 0."""
    gold = [q for q in questions if q["answers"]]
    texts = [found[q["id"]]["choices"][0]["message"]["content"]
             if q["id"] in found and found[q["id"]]["msa"]["outcome"] != "not_found" else None for q in gold]
    scores = [measure.answer_scores(t, q["answers"]) + measure.answer_scores(measure.first_sentence(t), q["answers"])
              + (measure.holds(t, q["answers"]),) if t is not None else (0,) * 5 for t, q in zip(texts, gold)]
    names = ("exact", "f1", "exact_first", "f1_first", "holds")
    return {"questions": len(gold), "not_found": share(count_not_found(found, questions), len(questions)),
            **{n: share(sum(s[i] for s in scores), len(gold)) for i, n in enumerate(names)}}


def count_not_found(found, questions):
    return sum(q["id"] in found and found[q["id"]]["msa"]["outcome"] == "not_found" for q in questions)


def measure_routing(a, folder, models, questions, others):
    """Recall in per cent by way of finding. others: the peers' lists by name, over the same passages."""
    lists = {how: records(route(a, folder, models[how], questions)) for how in ("router", "words")}
    joined = route(a, folder, models["both"], questions, 2 * a.candidates)   # all that either list proposes
    lists["both"] = records(joined)
    lists.update({f"both, {w}": weighed(joined, float(w)) for w in a.weights.split(",") if w})
    lists.update(others)
    words = lists.get("bm25") or lists["words"]
    for name, parts in (("router + bm25", ["router"]), ("router + bm25 + minilm", ["router", "minilm"])):
        if all(lists.get(p) for p in parts):
            lists[name] = {q["id"]: measure.fuse([lists[p][q["id"]] for p in parts] + [words[q["id"]]]) for q in questions}
    return {how: measure.recall(found, questions) if found else None for how, found in lists.items()}


def measure_corpus(a, name, sets, models):
    """One corpus for sets, a list of (set, questions, passages). Returns a result a set."""
    folder = os.path.join(a.work, name)
    passages = list({p["id"]: p for _, _, own in sets for p in own}.values())
    withhold = 0 if a.no_answers else a.withhold
    again = {s: questions[:withhold] for s, questions, _ in sets}
    titles = {p["id"]: titled(p) for p in passages}
    dealt = [deal(a, questions, titles) for questions in again.values()] if withhold else []
    parts = [sum(part, []) for part in zip(*dealt)]
    more, files, without = write_corpus(folder, a, passages, parts)
    pool = passages + more
    everyone = [q for _, questions, _ in sets for q in questions]
    ways = [] if a.no_answers else [w for w in a.answers_by.split(",") if w]
    results = [{"set": s, "questions": len(questions), "passages": len(pool), "answers": {}, "recall": {}}
               for s, questions, _ in sets]

    if ways or not a.no_recall:
        began = time.time()
        job = write_job(folder, "prefill", models["both"], files, [], a.max_tokens)
        run([a.program, "ingest", "-q", job])
        run([a.program, "prefill", "-q", job] + compute(a))
        told(name, f"{len(pool)} passages, ingest and prefill", began)
    if not a.no_recall:
        texts = [(p["id"], full_text(p)) for p in pool]
        others = {}
        if "bm25" in a.peers:
            others["bm25"] = peers.bm25(texts, everyone, LIST)
        if "minilm" in a.peers:
            others["minilm"] = peers.minilm(texts, everyone, LIST, a.device)
        for r, (_, questions, _) in zip(results, sets):
            r["recall"] = measure_routing(a, folder, models, questions, others)

    def ask(how, job_name, where, files, questions):
        began, base = time.time(), how == "base"
        place = os.path.join(folder, "base") if base else folder   # a store knows one model
        found = answer(a, place, write_job(place, job_name, models[how], files, questions, a.max_tokens,
                                           "../in" if base else "in"))
        told(name, f"{len(questions)} questions, {where} {how}", began)
        return found

    for how in ways + (["base"] if a.base and not a.no_answers else []):
        found = ask(how, how, "answers by", files, everyone)
        for r, (_, questions, _) in zip(results, sets):
            r["answers"][how] = measure_answers(found, questions)
    by = a.answers_by if a.withheld_by is None else a.withheld_by
    for how in [w for w in by.split(",") if w] if parts else []:
        found = {}
        for i, part in enumerate(parts):
            found.update(ask(how, f"{how}-withheld" + (f"-{i}" if a.parts > 1 else ""), "without their passages, by",
                             without[i], part))
        for r, (s, _, _) in zip(results, sets):
            r["answers"].setdefault(how, {}).update({"withheld": len(again[s]), "not_found_withheld":
                                                     share(count_not_found(found, again[s]), len(again[s]))})
    return results


def told(corpus, what, began):
    print(f"eval: {corpus}: {what}: {time.time() - began:.0f} s", file=sys.stderr, flush=True)


# ---- tables -----------------------------------------------------------------------

def cells(values, form="{:.0f}"):
    return " / ".join(form.format(v) for v in values) if values else "skipped"


def mean(rows):
    rows = [r for r in rows if r]
    return [sum(c) / len(rows) for c in zip(*rows)] if rows else None


def tables(results):
    ways = list(dict.fromkeys(w for r in results for w in r["recall"]))
    out = []
    if ways:
        out += ["Recall in per cent at 1 / 5 / 16.", "",
               "| set | questions | passages | " + " | ".join(ways) + " |", "|---" * (3 + len(ways)) + "|"]
        for r in results:
            out.append(f"| {r['set']} | {r['questions']} | {r['passages']} | " +
                       " | ".join(cells(r["recall"].get(w)) for w in ways) + " |")
        out.append("| mean | | | " + " | ".join(cells(mean([r["recall"].get(w) for r in results]), "{:.1f}") for w in ways) + " |")
    if any(r["answers"] for r in results):
        out += ["", "Answers, in per cent; of the first sentence: answers cut there; holds: a gold answer stands in it; "
                "not found: of all questions, and of questions whose passages were withheld.", "",
                "| set | documents by | questions | exact / F1 | of the first sentence | holds | not found | not found, withheld |",
                "|---" * 8 + "|"]
    keys = ("exact", "f1", "exact_first", "f1_first", "holds", "not_found", "not_found_withheld")
    rows = [(r["set"], how, x.get("questions"), [x.get(k) for k in keys]) for r in results for how, x in r["answers"].items()]
    for how in dict.fromkeys(row[1] for row in rows):
        part = [row[3] for row in rows if row[1] == how]
        rows.append(("mean", how, None, [None if None in c else sum(c) / len(c) for c in zip(*part)]))
    one = lambda v: "-" if v is None else f"{v:.1f}"
    for name, how, n, x in rows:
        v = list(map(one, x))
        out.append(f"| {name} | {how} | {n or ''} | {v[0]} / {v[1]} | {v[2]} / {v[3]} | {v[4]} | {v[5]} | {v[6]} |")
    return "\n".join(out)


def main():
    a = arguments()
    names = a.sets or sorted(os.path.basename(p)[:-9] for p in glob.glob(os.path.join(a.data, "*.jsonl.xz"))
                             if not p.endswith("passages.jsonl.xz"))
    if not names:
        sys.exit(f"eval: {a.data} holds no SET.jsonl.xz")
    pool = []

    def shared():   # read once, and only where it is needed
        if not pool:
            pool.append({p["id"]: p for p in lines(os.path.join(a.data, "passages.jsonl.xz"))})
        return pool[0]

    models, lexical = variants(a)
    models["base"] = a.base
    a.candidates = lexical.setdefault("candidates", 100)
    sets = [(name,) + choose(a, name, shared) for name in names]
    sets = [s for s in sets if s[1]]
    corpora = [("together", sets)] if a.together else [(s[0], [s]) for s in sets]
    results = [r for name, part in corpora for r in measure_corpus(a, name, part, models)]
    with open(a.out or os.path.join(a.work, "eval.json"), "w", encoding="utf-8") as f:
        json.dump({"model": a.model, "lexical": lexical, "options": vars(a), "results": results}, f, indent=1)
    print(tables(results))


if __name__ == "__main__":
    main()
