"""Speaks SMT-LIB on stdin and stdout, as the program `cvc5` does, by the Python package of the same name.

Commands are read one by one, since whoever asks waits for each answer before the next question. `(reset)` makes a new
solver: a parser keeps its symbols.
"""

import sys

import cvc5

BOUNDS = ("--tlimit-per=", "--rlimit-per=")


class Session:
    def __init__(self, options):
        self.options = options
        self.reset()

    def reset(self):
        self.terms = cvc5.TermManager()
        self.solver = cvc5.Solver(self.terms)
        for name, value in self.options:
            self.solver.setOption(name, value)
        self.symbols = cvc5.SymbolManager(self.terms)
        self.parser = cvc5.InputParser(self.solver, self.symbols)
        self.parser.setIncrementalStringInput(cvc5.InputLanguage.SMT_LIB_2_6, "stdin")

    def run(self, text):
        """The answer to one command; most have none."""
        self.parser.appendIncrementalStringInput(text)
        command = self.parser.nextCommand()
        if command.isNull():
            return ""
        return command.invoke(self.solver, self.symbols)


def commands(lines):
    """Cuts the input into commands: texts whose parentheses are closed."""
    text, depth, quote, comment = [], 0, "", False
    for line in lines:
        for c in line:
            if comment:
                comment = c != "\n"
                continue
            if quote:
                # A doubled quote inside of a string closes and opens it again, which comes to the same.
                quote = "" if c == quote else quote
            elif c in "\"|":
                quote = c
            elif c == ";":
                comment = True
                continue
            elif c == "(":
                depth += 1
            elif c == ")":
                depth -= 1
            text.append(c)
            if c == ")" and depth == 0 and not quote:
                yield "".join(text).strip()
                text = []


def main(arguments):
    given = [argument[2:].split("=", 1) for argument in arguments if argument.startswith(BOUNDS)]
    session = Session(given)
    for command in commands(sys.stdin):
        if command == "(exit)":
            break
        if command == "(reset)":
            session.reset()
            continue
        try:
            answer = session.run(command)
        except Exception as error:
            answer = '(error "%s")\n' % " ".join(str(error).split()).replace('"', "'")
        if answer:
            sys.stdout.write(answer if answer.endswith("\n") else answer + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
