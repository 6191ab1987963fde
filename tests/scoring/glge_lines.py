"""Made-up lines for every task of GLGE, and what its scripts print for them.

The numbers are of GLGE_baselines in github.com/microsoft/ProphetNet (commit 5cf70eb), with files2rouge d3d09c8 (outputs
as the summary), ROUGE-1.5.5, METEOR 1.5 and NLTK 3.10.4.
"""

QUESTIONS = """\
the church was built in 1858 by saint mary .\twhen was the church built ?\twhen was the church built ?
the church was built in 1858 by saint mary .\twho built the church ?\twho was the church built by ?
The church was built in 1858 by Saint Mary .\twho built it ?\twhat is the church ' s age ?
an atom has a nucleus ( dense ) and electrons .\twhat does an atom have ?\twhat do atoms have ( inside ) ?
the u.s. dollar is used in 15 states .\twhere isn't the u.s. dollar used ?\twhere isn ' t the u . s . dollar used ?
genes carry hereditary information .\twhat carries hereditary information ?\twhat carry hereditary - information ?
prices rose by 3,000 $ to 1.5 million .\thow far did prices rise ?\thow by 3 , 000 did prices rise to 1 . 5 million ?
he said `` no '' .\twhat did he say ?\twhat did he " say " - - & why . . . ?
the arguments ended .\thow did the  argument end ?\thow did the argument end ?
Émile Zola wrote Germinal .\twhat did Émile write ?\twhat did émile wrote ?
dogs run quickly .\twho runs ?\tthe running dogs - who runs - so fast ?
it is well - known .\tis it known ?\tis it [UNK] known known known ?
"""
SUMMARIES = """\
two men held <S_SEP> they stole cars\t\
two men held in paris [X_SEP] the two men held in paris [X_SEP] held [X_SEP] they stole cars . ok
A storm hit Florida ( again ) <S_SEP> many lost power\t\
a storm hit " florida " ( again ) . [X_SEP] many there lost power .
The U.S. won 3,000 medals <S_SEP> it's a record\tthe u . s . won 3 , 000 medals . [X_SEP] it ' s a record .
he didn't run <S_SEP> she ran\the didn ' t run with her today . [X_SEP] she ran a lot and he did not run
ministers agree on a budget\tthe ministers agreed on the budgets - the well - known ones .
cafés in Paris close\tcafes in paris are closing now , a report said
a < b and c\tif a < b and c then d is more
no match here\tsomething else entirely was said today .
replacement of an argument <S_SEP> nobody won\targuments were being replaced again . [X_SEP] nobody wins them .
prices rose 1.5 % in 2019\tprices rose by 1 . 5 % in 2019 .
generous relatives of the nation's presidents\trelative generosity of the nation ' s president .
yes\tyes yes yes yes yes , he said . . .
"""
ANSWERS = """\
The White House\tin the white house
75\t75
a cat\tthe cat , sitting
she was lonely\tshe was alone
no\tyes
the\ta
U.S.\tus
two dogs\tdogs two dogs
i am fine . how are you ?\ti am fine . how are you ?
i like to read books , too\ti like reading books
what do you do ?\twhat do you do for a living ?
hello\thello hello there
"""


def columns(text: str) -> list[list[str]]:
    """The columns of one of the texts above: sources where there are any, references, outputs."""
    return [list(column) for column in zip(*(line.split("\t") for line in text.splitlines()), strict=True)]
